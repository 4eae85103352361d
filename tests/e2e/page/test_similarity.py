"""Pictures compared with each other, and the reading of NumPy files."""

import base64
import io
import json

import cv2
import numpy as np
import pytest


def test_pictures_are_compared(visit, frames, client, tmp_path):
    other = cv2.cvtColor(frames.images[0][::-1, :, ::-1], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "other.png"), other)
    files = [*frames.files, tmp_path / "other.png"]
    visit.page.click("#tab-images")
    visit.upload("#image-files", *files)
    visit.wait_for_result("images")
    cells = visit.page.locator("#matrix .cell").all_inner_texts()
    shown = np.array([float(text) for text in cells]).reshape(4, 4)
    expected = client.embed(files).similarity()
    assert shown == pytest.approx(expected, abs=0.0006)
    np.fill_diagonal(expected, -1)
    nearest = visit.page.locator("#nearest small").all_inner_texts()
    names = [file.name for file in files]
    assert nearest == [
        f"{name} is nearest to {names[other]}" for name, other in zip(names, expected.argmax(1), strict=True)
    ]
    saved = json.loads(visit.download("#embeddings-json", tmp_path).read_text())
    array = np.load(visit.download("#embeddings-npy", tmp_path))
    assert [item["embedding"] for item in saved["data"]] == pytest.approx(array, abs=1e-6)
    assert array.dtype == np.float32


def test_the_sample_pictures_are_nearest_to_those_of_their_scene(visit):
    visit.page.click("#tab-images")
    visit.page.click("#images-sample")
    visit.wait_for_result("images")
    nearest = visit.page.locator("#nearest small").all_inner_texts()
    assert nearest[1:5] == [
        "at_1.1s.jpg is nearest to at_1.4s.jpg",
        "at_1.4s.jpg is nearest to at_1.1s.jpg",
        "at_2.0s.jpg is nearest to at_2.4s.jpg",
        "at_2.4s.jpg is nearest to at_2.0s.jpg",
    ]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_read_stored_and_deflated(visit, save):
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(5, 7, 2)).astype(np.float32)
    buffer = io.BytesIO()
    save(buffer, flow=flow, occlusion=flow[..., 0] > 0, meta=np.array('{"ä": 1}'))
    read = visit.page.evaluate(
        """async (text) => {
          const { readNpz } = await import("./static/numpy.js");
          const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
          const { flow, occlusion, meta } = await readNpz(bytes.buffer);
          return { shape: flow.shape, flow: [...flow.data], occlusion: [...occlusion.data], meta };
        }""",
        base64.b64encode(buffer.getvalue()).decode(),
    )
    assert read["shape"] == [5, 7, 2]
    assert read["flow"] == flow.ravel().tolist()
    assert read["occlusion"] == (flow[..., 0] > 0).ravel().astype(int).tolist()
    assert read["meta"] == '{"ä": 1}'
