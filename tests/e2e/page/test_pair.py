"""Two frames: every view of their flow, held to what the SDK gets for them."""

import base64
import io
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mcjepa_client import flow_io, flow_viz

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect


def test_the_sample_is_one_click_away(visit):
    visit.page.click("#pair-sample")
    visit.wait_for_result("pair")
    assert visit.page.locator("#pair .first").is_hidden()
    assert visit.base().std() > 5, "the flow has colours"
    assert visit.page.inner_text("#status-text").startswith("nano-")
    assert re.fullmatch(r"server [\d.]+ m?s \+ network [\d.]+ m?s", visit.page.inner_text("#last"))


def test_colours_are_those_of_the_client(shown, answer):
    longest = flow_viz.largest_motion(answer.flow)
    scale = float(shown.page.input_value("#pair [data-scale]"))
    assert scale == pytest.approx(longest, rel=0.005)
    expected = flow_viz.flow_to_color(answer.flow, longest).astype(int)
    assert np.abs(shown.base() - expected).max() <= 3


def test_another_scale_changes_the_colours_and_automatic_brings_them_back(shown, answer):
    before = shown.base()
    shown.page.fill("#pair [data-scale]", "100")
    shown.settle()
    expected = flow_viz.flow_to_color(answer.flow, 100).astype(int)
    assert np.abs(shown.base() - expected).max() <= 3
    shown.page.click("#pair [data-auto]")
    shown.settle()
    assert (shown.base() == before).all()


def test_the_pointer_reads_the_vector(shown, answer):
    box = shown.page.locator("#pair .canvases").bounding_box()
    x, y = 200, 70
    height, width = answer.occlusion.shape
    at = {"x": (x + 0.5) * box["width"] / width, "y": (y + 0.5) * box["height"] / height}
    shown.page.hover("#pair .canvases", position=at)
    shown.settle()
    assert read_vector(shown) == pytest.approx((x, y, *answer.flow[y, x]), abs=0.006)


def test_the_arrow_keys_move_the_point(shown, answer):
    shown.page.focus("#pair .canvases")
    shown.page.keyboard.press("ArrowLeft")
    shown.settle()
    x, y = (int(part) for part in read_vector(shown)[:2])
    for key in ("ArrowRight", "Shift+ArrowUp", "ArrowDown"):
        shown.page.keyboard.press(key)
    shown.settle()
    x, y = x + 8, y - 1 + 8
    assert read_vector(shown) == pytest.approx((x, y, *answer.flow[y, x]), abs=0.006)


def read_vector(visit):
    text = visit.page.inner_text("#pair [data-readout]").replace("\N{MINUS SIGN}", "-")
    found = re.match(r"\((\d+), (\d+)\) moves by dx ([+-][\d.]+), dy ([+-][\d.]+) px", text)
    return tuple(float(part) for part in found.groups())


def test_arrows_and_their_density(shown):
    without = shown.drawn()  # the point that is read, if any
    shown.page.check("#pair [data-arrows]")
    shown.slide("#pair [data-density]", 40)
    few = shown.drawn()
    shown.slide("#pair [data-density]", 12)
    assert without < few < shown.drawn()
    shown.page.uncheck("#pair [data-arrows]")
    shown.settle()
    assert shown.drawn() == without


def test_occlusion_lies_where_the_server_says(shown, answer):
    shown.page.check("#pair [data-occlusion]")
    shown.settle()
    over = shown.canvas("#pair [data-over]")[..., 3]
    seen = cv2.resize(over, answer.occlusion.shape[::-1], interpolation=cv2.INTER_AREA) > 20
    assert (seen == answer.occlusion).mean() > 0.97
    hidden = float(re.search(r"Occluded\s+([\d.]+) %", shown.page.inner_text("#pair [data-stats]"))[1])
    assert hidden == pytest.approx(100 * answer.occlusion.mean(), abs=0.06)


def test_the_slider_warps_frame_1_to_frame_2(shown, pictures):
    shown.view("warp")
    shown.slide("#pair [data-time]", 0)
    assert np.abs(shown.base() - pictures[0]).max() <= 1
    shown.slide("#pair [data-time]", 100)
    away = [np.abs(shown.base() - picture).mean() for picture in pictures]
    apart = np.abs(pictures[0] - pictures[1]).mean()
    assert away[1] < 0.9 * apart, "it came nearer to frame 2"
    assert away[0] > 0.5 * apart, "and left frame 1"


def test_blink_shows_both_in_turn_and_can_be_held(shown, pictures):
    shown.view("blink")
    shown.page.select_option("#pair [data-against]", "frame1")
    for number in (2, 1):
        expect(shown.page.locator("#pair [data-shown]")).to_have_text(f"frame {number}")
    shown.page.click("#pair [data-pause]")
    shown.settle()
    number = int(shown.page.evaluate("document.querySelector('#pair [data-shown]').value")[-1])
    assert np.abs(shown.base() - pictures[number - 1]).max() <= 1
    assert shown.page.inner_text("#pair [data-pause]") == "Blink"


def test_frames_can_be_looked_at(shown, pictures):
    for number, picture in enumerate(pictures, start=1):
        shown.view(f"frame{number}")
        assert np.abs(shown.base() - picture).max() <= 1


def test_frames_can_be_swapped(visit, small, pictures):
    visit.compute(small)
    visit.view("frame2")
    visit.page.click("#swap")
    visit.wait_for_result("pair")
    assert np.abs(visit.base() - pictures[0]).max() <= 1


def test_histogram_and_figures(shown, answer):
    lengths = np.hypot(answer.flow[..., 0], answer.flow[..., 1])
    counts = np.histogram(lengths, 48, (0, lengths.max()))[0]
    heights = shown.page.eval_on_selector_all(
        "#pair [data-histogram] rect", "(bars) => bars.map((bar) => Number(bar.getAttribute('height')))"
    )
    expected = np.sqrt(counts / counts.max()) * 60
    assert heights == pytest.approx(expected.tolist(), abs=0.5)
    text = shown.page.inner_text("#pair [data-stats]")
    for name, value in (("Mean", lengths.mean()), ("Longest", lengths.max())):
        assert float(re.search(rf"{name}\s+([\d.]+) px", text)[1]) == pytest.approx(value, abs=0.006)


def test_downloads_are_the_files_that_the_server_would_send(shown, answer, tmp_path):
    files = {
        name: shown.download(f"#pair [data-format={name}]", tmp_path)
        for name in ("flo", "kitti", "npy", "png")
    }
    assert (flow_io.read_flo(files["flo"]) == answer.flow).all()
    buffer = io.BytesIO()
    np.save(buffer, answer.flow)
    assert files["npy"].read_bytes() == buffer.getvalue()
    answer.save(tmp_path / "expected.png", format="kitti")
    ours, theirs = (
        cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in (files["kitti"], tmp_path / "expected.png")
    )
    assert ours.dtype == np.uint16
    assert (ours == theirs).all()
    colours = cv2.cvtColor(cv2.imread(str(files["png"])), cv2.COLOR_BGR2RGB).astype(int)
    assert np.abs(colours - flow_viz.flow_to_color(answer.flow)).max() <= 3


def test_files_can_be_dropped(visit, small):
    data = [base64.b64encode(file.read_bytes()).decode() for file in small]
    transfer = visit.page.evaluate_handle(
        """async (files) => {
          const transfer = new DataTransfer();
          files.forEach((text, index) => {
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            transfer.items.add(new File([bytes], `f${index + 1}.png`, {type: "image/png"}));
          });
          return transfer;
        }""",
        data,
    )
    for event in ("dragenter", "dragover", "drop"):
        visit.page.dispatch_event("#pair [data-drop]", event, {"dataTransfer": transfer})
    visit.wait_for_result("pair")
    assert "f1.png" in visit.page.inner_text("#pair .slots")


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_code_shown_does_the_same(shown, small, answer, language):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown.page.check(f"#pair .code input[value={language}]", force=True)
    code = shown.page.inner_text("#pair .code code")
    command = ["sh", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    folder = small[0].parent
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    flow = (
        np.load(folder / "flow.npz")["flow"] if language == "curl" else flow_io.read_flo(folder / "flow.flo")
    )
    assert (flow == answer.flow).all()


def test_the_code_can_be_copied(open_page, server):
    visit = open_page()
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server)
    visit.page.click("#pair [data-copy]")
    expect(visit.page.locator("#pair [data-copy]")).to_have_text("Copied")
    assert visit.page.evaluate("navigator.clipboard.readText()") == visit.page.inner_text("#pair .code code")


def test_times_are_shown_by_stage(shown):
    text = shown.page.inner_text("#pair .timing")
    for name in ("Total", "Server", "decode", "queue", "inference", "encode", "network and transfer"):
        assert re.search(rf"{name}\s+[\d.]+ m?s", text), name


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_the_quality_can_be_chosen(shown, server, small, quality):
    def is_of_it(reply):
        return f"quality={quality}" in reply.url

    with shown.page.expect_response(is_of_it) as reply:
        shown.page.select_option("#pair-quality", quality)
    assert reply.value.headers["x-quality"] == quality
    assert quality in shown.page.inner_text("#pair .code code")
    shown.page.select_option("#pair-quality", "best")
