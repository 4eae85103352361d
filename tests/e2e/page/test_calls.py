"""The calls that the page shows, pasted into a shell or into Python, give what the page shows."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def paste(visit, tab, language, folder, path=None):
    """Runs what stands on the tab, in the folder of the files it names; standard output."""
    visit.page.check(f"#{tab} .code input[value={language}]", force=True)
    code = visit.page.inner_text(f"#{tab} .code code")
    command = ["sh", "-e", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return code, done.stdout


@pytest.fixture
def ffmpeg(tmp_path):
    """Folder with an ffmpeg to call: the system's, or the one that imageio-ffmpeg brings."""
    found = shutil.which("ffmpeg")
    if found is None:
        bundled = pytest.importorskip(
            "imageio_ffmpeg", reason="neither ffmpeg nor imageio-ffmpeg is installed"
        )
        found = bundled.get_ffmpeg_exe()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(found)
    return tmp_path / "bin"


@pytest.mark.parametrize(
    "names", [("a.png", "b.png", "c.png"), ("it's one.png", "two $HOME.png", "drei;ä.png")]
)
def test_similarity(visit, frames, tmp_path, names):
    for file, name in zip(frames.files, names, strict=True):
        shutil.copy(file, tmp_path / name)
    visit.page.click("#tab-images")
    visit.upload("#image-files", *(tmp_path / name for name in names))
    visit.wait_for_result("images")
    shown = np.load(visit.download("#embeddings-npy", tmp_path))
    paste(visit, "images", "curl", tmp_path)
    reply = json.loads((tmp_path / "embeddings.json").read_text())
    assert [item["embedding"] for item in reply["data"]] == pytest.approx(shown, abs=1e-6)
    _, printed = paste(visit, "images", "python", tmp_path)
    cells = np.array(re.findall(r"-?[\d.]+(?:e-?\d+)?", printed), float).reshape(3, 3)
    assert cells == pytest.approx(shown @ shown.T, abs=1e-4)


@pytest.mark.parametrize("both", [False, True])
def test_video(visit, root, tmp_path, ffmpeg, both):
    shutil.copy(root / "server/src/mcjepa_server/static/samples/clip.webm", tmp_path / "my clip.webm")
    visit.page.click("#tab-video")
    visit.upload("#video-file", tmp_path / "my clip.webm")
    visit.page.wait_for_selector("#video-run:enabled")
    visit.page.select_option("#video-rate", "5")
    visit.page.fill("#video-start", "0.4")
    visit.page.fill("#video-end", "2")
    visit.page.set_checked("#video-both", both)
    visit.page.click("#video-run")
    visit.wait_for_result("video")
    pairs = int(re.search(r"of (\d+)", visit.page.inner_text("#clock"))[1])
    code, _ = paste(visit, "video", "curl", tmp_path, ffmpeg)
    with np.load(tmp_path / "clip.npz") as arrays:
        assert arrays["flows"].shape == (pairs, 144, 256, 2)
        assert arrays["embeddings"].shape[0] == pairs + 1
        assert ("flows_backward" in arrays) == ("occlusion" in arrays) == both
        theirs = arrays["flows"][0]
    _, printed = paste(visit, "video", "python", tmp_path)  # of the frames that ffmpeg has left
    assert printed.startswith(f"({pairs}, 144, 256, 2) ({pairs + 1}, ")
    # The browser seeks and encodes the frames in its own way: the same motion, not the same bytes.
    ours = visit.page.inner_text("#video [data-stats]")
    mean = float(re.search(r"Mean\s+([\d.]+) px", ours)[1])
    assert np.hypot(*theirs.transpose(2, 0, 1)).mean() == pytest.approx(mean, rel=0.35, abs=0.2)
    assert "-ss 0.4 -i 'my clip.webm'" in code


@pytest.mark.parametrize("tab", ["pair", "video", "images"])
@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_call_is_there_before_the_first_result(visit, tab, language):
    """And is valid: an interpreter reads it, a shell too."""
    visit.page.click(f"#tab-{tab}")
    visit.page.check(f"#{tab} .code input[value={language}]", force=True)
    code = visit.page.inner_text(f"#{tab} .code code")
    assert visit.url in code
    command = (
        ["sh", "-n", "-c", code]
        if language == "curl"
        else [sys.executable, "-c", f"compile({code!r}, 'x', 'exec')"]
    )
    subprocess.run(command, check=True, timeout=60)
