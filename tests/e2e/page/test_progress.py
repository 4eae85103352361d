"""How far an upload is, on a slow network."""

import re

import numpy as np
import pytest
from mcjepa_client import flow_io

# Every text of the progress card, and what its bar says.
WATCH = """() => {
  const place = document.querySelector("#images [data-progress]");
  window.seen = [];
  new MutationObserver(() => {
    const text = place.querySelector("[data-text]");
    if (text) window.seen.push([text.textContent, place.querySelector("progress").value]);
  }).observe(place, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


@pytest.fixture
def large(tmp_path):
    """Pictures of noise, which no format makes smaller: about 400 kB each."""
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        noise = np.random.default_rng(index).integers(0, 256, (360, 370, 3), np.uint8)
        file.write_bytes(flow_io.encode_png(noise))
    return files


def test_the_share_of_the_upload_is_shown(visit, large):
    network = visit.page.context.new_cdp_session(visit.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    network.send("Network.emulateNetworkConditions", slow)
    visit.page.click("#tab-images")
    visit.page.evaluate(WATCH)
    visit.upload("#image-files", *large)
    visit.wait_for_result("images")
    seen = visit.page.evaluate("window.seen")
    shares = [
        (int(found[1]), bar) for text, bar in seen if (found := re.search(r"3 pictures: (\d+) %", text))
    ]
    between = sorted({share for share, _ in shares if 0 < share < 100})
    assert len(between) >= 3, seen
    assert [share for share, _ in shares] == sorted(share for share, _ in shares)
    assert all(share == pytest.approx(100 * bar, abs=1) for share, bar in shares if bar < 1)
    assert seen[-1][0] == "The server works on 3 pictures…"
