"""The model of Triton's python backend, with what Triton gives it made up."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mcjepa
import numpy as np
import pytest

FILE = Path(mcjepa.__file__).parent / "triton_python" / "model.py"


@dataclass
class TritonError(Exception):
    message: str
    code: str = "INTERNAL"
    INTERNAL, INVALID_ARG, CANCELLED = "INTERNAL", "INVALID_ARG", "CANCELLED"


class Request:
    def __init__(self, shape, cancelled=False):
        self.array = np.zeros(shape, np.uint8)
        self.is_cancelled = lambda: cancelled

    def requested_output_names(self):
        return ["flow"]


class Session:
    """Answers with one number for each clip, and notes what it was given."""

    def __init__(self):
        self.shapes = []

    def run(self, names, inputs):
        (array,) = inputs.values()
        self.shapes.append(array.shape)
        return [np.zeros(len(array), np.float32)]


@pytest.fixture
def model(monkeypatch):
    utils = SimpleNamespace(
        TritonError=TritonError,
        Tensor=lambda name, array: (name, array),
        InferenceResponse=lambda outputs=(), error=None: SimpleNamespace(outputs=outputs, error=error),
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request.array),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    made = runpy.run_path(str(FILE))["TritonPythonModel"]()
    made.input_name, made.stride, made.session = "frames", 64, Session()
    return made


@pytest.mark.parametrize(("height", "width"), [(100, 128), (128, 100), (63, 65)])
def test_a_size_that_is_no_multiple_is_refused_by_name(model, height, width):
    good, bad = Request((1, 2, 128, 192, 3)), Request((1, 2, height, width, 3))
    responses = model.execute([good, bad, Request((1, 2, 128, 192, 3), cancelled=True), good])
    assert [response.error and response.error.code for response in responses] == [
        None, "INVALID_ARG", "CANCELLED", None,
    ]  # fmt: skip
    for part in ("frames", str(height), str(width), "64"):
        assert part in responses[1].error.message
    assert model.session.shapes == [(2, 2, 128, 192, 3)]


def test_nothing_is_run_for_nobody(model):
    (response,) = model.execute([Request((1, 2, 100, 100, 3))])
    assert response.error.code == "INVALID_ARG"
    assert model.session.shapes == []


def test_images_to_embed_are_left_to_triton(model):
    model.input_name = "images"
    (response,) = model.execute([Request((1, 225, 225, 3))])
    assert response.error is None
