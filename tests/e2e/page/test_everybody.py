"""By keyboard, in the dark, on a phone, with a screen reader."""

import re

import pytest

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)


def test_tabs_work_by_keyboard(visit):
    visit.page.focus("#tab-pair")
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.is_visible("#video")
    assert visit.page.is_hidden("#pair")
    visit.page.keyboard.press("End")
    assert visit.page.evaluate("document.activeElement.id") == "tab-images"
    assert visit.page.url.endswith("#images")


def test_everything_is_reached_with_tab(visit, small):
    visit.compute(small)
    expected = visit.page.eval_on_selector_all(
        "a, button, input, select, pre, .canvases",
        """(all) => all.filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0
             && !(e.type === "radio" && !e.checked)).length""",
    )
    visit.page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(expected + 15):
        visit.page.keyboard.press("Tab")
        reached.add(
            visit.page.evaluate("""() => { const e = document.activeElement;
          return e === document.body ? "" : (e.dataset.reached ??= String(Math.random())); }""")
        )
    assert len(reached - {""}) >= expected


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    visit = open_page(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(colour)
    visit.page.click("#theme")
    light = visit.page.evaluate(colour)
    assert brightness(dark) < 60 < 200 < brightness(light)
    visit.page.reload()
    assert visit.page.evaluate(colour) == light


def brightness(colour):
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_need_not_scroll_sideways(open_page, small, width):
    visit = open_page()
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.compute(small)
    for tab in ("pair", "video", "images"):
        visit.page.click(f"#tab-{tab}")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, small, frames, tmp_path, scheme):
    visit = open_page(allowed=("status of 400",), color_scheme=scheme)
    check_axe(visit, "empty")
    visit.compute(small)
    check_axe(visit, "a pair")
    (tmp_path / "letter.png").write_text("not a picture")
    visit.upload("#frame2", tmp_path / "letter.png")
    visit.page.wait_for_selector("#pair [role=alert]")
    check_axe(visit, "an error")
    visit.page.click("#tab-video")
    check_axe(visit, "video")
    visit.page.click("#tab-images")
    visit.upload("#image-files", *frames.files)
    visit.wait_for_result("images")
    check_axe(visit, "similarity")


def check_axe(visit, where):
    found = axe.Axe().run(visit.page).response["violations"]
    serious = [
        (rule["id"], [node["html"][:160] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == [], where
