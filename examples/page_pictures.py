"""Pictures of the web page, as a person sees it: docs/images/page.png, and more of it into out/page/.

Starts mcjepa-server on a free port, opens its page in the system's Chromium and presses the samples, in
light, dark and on a phone. Needs Playwright, which `make test` installs, and Chromium (apt-get install
chromium).
"""

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import DemoError, serve
from mcjepa_client import McjepaError
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
README_PICTURE = ROOT / "docs/images/page.png"
WAIT_MS = 120_000
DESK = {"width": 1280, "height": 900}
README = {"width": 1280, "height": 945}  # down to the lower edge of the flow
PHONE = {"width": 390, "height": 844}
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SAMPLES = {"pair": "#pair-sample", "video": "#video-sample", "images": "#images-sample"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "out/page", metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    try:
        with serve(output / "server.log") as client, chromium() as browser:
            for scheme in ("light", "dark"):
                take_all(browser, client.base_url, scheme, DESK, output / f"{scheme}-{{}}.png")
            take_all(browser, client.base_url, "light", PHONE, output / "phone-{}.png")
            with visit(browser, client.base_url, "light", README) as page:
                press(page, "pair")
                page.check("#pair [data-arrows]")
                page.fill("#pair [data-blend]", "35")
                picture(page, README_PICTURE)
    except (DemoError, McjepaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise DemoError("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=path, headless=True, args=OPTIONS)


@contextmanager
def visit(browser: Browser, url: str, scheme: str, size: dict[str, int]) -> Iterator[Page]:
    context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.wait_for_selector(".pill.ready")
    yield page
    context.close()


def take_all(browser: Browser, url: str, scheme: str, size: dict[str, int], name: Path) -> None:
    """Every tab, before and after its sample, from top to bottom."""
    with visit(browser, url, scheme, size) as page:
        picture(page, Path(str(name).format("empty")), whole=True)
        for tab in SAMPLES:
            press(page, tab)
            picture(page, Path(str(name).format(tab)), whole=True)


def press(page: Page, tab: str) -> None:
    """The sample of a tab, until its result is painted."""
    page.click(f"#tab-{tab}")
    page.click(SAMPLES[tab])
    page.wait_for_selector(f"#{tab} [data-result]:not([hidden]):not(.stale)")
    page.wait_for_selector(f"#{tab} [data-progress]:empty", state="attached")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def picture(page: Page, path: Path, whole: bool = False) -> None:
    """What the window shows, or the whole page; the file appears complete."""
    page.evaluate("scrollTo(0, 0)")
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.png")
    try:
        page.screenshot(path=partial, full_page=whole, animations="disabled")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
