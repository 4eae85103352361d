"""Variants of a model repository for other backends, and the commands that build and check them."""

import subprocess
import sys

import numpy as np
import pytest
from google.protobuf import text_format
from mcjepa.checkpoint import Card
from mcjepa.config import load_config
from mcjepa.triton_cli import write_variants
from mcjepa.triton_config import model_config, parameters, write_config
from mcjepa.triton_parity import compare, sample_batches
from mcjepa.triton_serving import BUCKETS
from mcjepa.triton_tensorrt import build_command, build_tensorrt
from mcjepa.triton_variants import MODELS, profiles, read_config, shape_text, write_variant

GOLDEN_TENSORRT = """\
execution_accelerators {
  gpu_execution_accelerator {
    name: "tensorrt"
    parameters { key: "precision_mode" value: "FP32" }
    parameters { key: "trt_engine_cache_enable" value: "1" }
    parameters { key: "trt_engine_cache_path" value: "/var/cache/mcjepa-tensorrt/mcjepa_embed" }
    parameters { key: "trt_profile_max_shapes" value: "images:8x128x128x3" }
    parameters { key: "trt_profile_min_shapes" value: "images:1x128x128x3" }
    parameters { key: "trt_profile_opt_shapes" value: "images:8x128x128x3" }
    parameters { key: "trt_timing_cache_enable" value: "1" }
    parameters { key: "trt_timing_cache_path" value: "/var/cache/mcjepa-tensorrt" }
  }
}
"""


class Named:
    """What the configuration of a model needs to know of its graph."""

    def __init__(self, name, input_name, output_names):
        self.name, self.input_name, self.output_names = name, input_name, output_names


@pytest.fixture
def repository(tmp_path):
    """Configurations as exported; what is in the ONNX files does not matter here."""
    config = load_config("nano", ["model.content.image_size=128"])
    params = parameters(config, "nano-1", "ab" * 32, "trained", Card("nano", "1", "pictures", "MIT", ""))
    outputs = (("flow", "embedding"), ("flow", "flow_backward", "embedding"), ("embedding", "features"))
    for name, names in zip(MODELS, outputs, strict=True):
        graph = Named(name, "images" if name == "mcjepa_embed" else "frames", names)
        write_config(tmp_path / "models" / name / "config.pbtxt", model_config(graph, config, params))
        (tmp_path / "models" / name / "1").mkdir()
        (tmp_path / "models" / name / "1" / "model.onnx").write_bytes(name.encode())
    return tmp_path / "models"


@pytest.mark.parametrize("variant", ["python", "ort-trt", "tensorrt"])
def test_a_variant_keeps_names_tensors_and_contract(repository, tmp_path, variant):
    write_variant(repository, tmp_path / "out", variant)
    for name in MODELS:
        source, result = (
            read_config(root / name / "config.pbtxt") for root in (repository, tmp_path / "out")
        )
        assert result.name == source.name
        assert result.input == source.input
        assert result.output == source.output
        assert result.parameters == source.parameters
        assert result.dynamic_batching == source.dynamic_batching


def test_export_puts_the_variants_it_is_asked_for_beside_the_repository(repository, capsys):
    write_variants(repository, ["python", "ort-trt"])
    assert capsys.readouterr().out.splitlines() == [f"{repository}-python", f"{repository}-ort-trt"]
    for variant in ("python", "ort-trt"):
        folder = repository.with_name(f"models-{variant}")
        assert {path.name for path in folder.iterdir()} == set(MODELS)


def test_python_differs_in_the_backend_and_brings_its_model(repository, tmp_path):
    write_variant(repository, tmp_path / "out", "python", threads=3)
    result = read_config(tmp_path / "out" / "mcjepa_flow" / "config.pbtxt")
    assert result.backend == "python"
    assert result.parameters["intra_op_thread_count"].string_value == "3"
    folder = tmp_path / "out" / "mcjepa_flow" / "1"
    assert (folder / "model.onnx").read_bytes() == b"mcjepa_flow"
    compile((folder / "model.py").read_text(), "model.py", "exec")


def test_tensorrt_in_onnx_runtime_is_as_written_down(repository, tmp_path):
    write_variant(repository, tmp_path / "out", "ort-trt")
    result = read_config(tmp_path / "out" / "mcjepa_embed" / "config.pbtxt")
    golden = text_format.Parse(GOLDEN_TENSORRT, type(result.optimization)())
    assert result.optimization == golden
    assert result.backend == "onnxruntime"
    assert [group.kind for group in result.instance_group] == [result.instance_group[0].KIND_GPU]


def test_plans_have_a_profile_for_each_bucket_and_a_wide_one(repository, tmp_path):
    write_variant(repository, tmp_path / "out", "tensorrt")
    result = read_config(tmp_path / "out" / "mcjepa_flow" / "config.pbtxt")
    assert result.default_model_filename == "model.plan"
    assert list(result.instance_group[0].profile) == [str(index) for index in range(len(BUCKETS) + 1)]
    for profile in profiles(result):
        assert all(a <= b <= c for a, b, c in zip(*profile.values(), strict=True))
    command = build_command(result, tmp_path / "a.onnx", tmp_path / "a.plan", "fp16", "trtexec")
    assert "--fp16" in command
    assert command.count("--minShapes=frames:1x2x448x1024x3") == 1
    assert len([part for part in command if part.startswith("--profile=")]) == len(BUCKETS) + 1
    assert shape_text(result, "max")[0] == "frames:8x8x384x640x3"


def test_what_is_missing_is_named_and_nothing_is_replaced(repository, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    (repository / "mcjepa_embed" / "1" / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"mcjepa_embed/1/model\.onnx is missing"):
        write_variant(repository, tmp_path / "out", "python")
    with pytest.raises(ValueError, match="expected one of python, ort-trt, tensorrt"):
        write_variant(repository, tmp_path / "out", "cuda")
    assert (tmp_path / "out" / "kept").exists()


def test_a_failed_build_leaves_what_was_there(repository, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with pytest.raises(RuntimeError, match="run this in the Triton image"):
        build_tensorrt(repository, tmp_path / "out", "fp16", str(tmp_path / "no-trtexec"), "tritonserver")
    failing = tmp_path / "trtexec"
    failing.write_text("#!/bin/sh\necho unsupported operator\nexit 3\n")
    failing.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"mcjepa_flow: trtexec failed \(3\): unsupported operator"):
        build_tensorrt(repository, tmp_path / "out", "fp16", str(failing), "tritonserver")
    assert (tmp_path / "out" / "kept").exists()


@pytest.mark.parametrize(
    ("change", "passed"), [(0.0, True), (0.04, True), (0.06, False), (np.nan, False), (-30.0, False)]
)
def test_served_parity_notices_wrong_flow(change, passed):
    flow = np.random.default_rng(0).normal(size=(1, 1, 2, 8, 8)).astype(np.float32)
    embedding = np.ones((1, 2, 4), np.float32)
    other = flow.copy()
    other[:, :, 0] += change
    found = compare(
        "m", flow.shape, {"flow": flow, "embedding": embedding}, {"flow": other, "embedding": embedding}
    )
    assert found.passed is passed


def test_served_parity_notices_a_constant_embedding():
    embedding = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    constant = np.broadcast_to(embedding[:1], embedding.shape)
    assert not compare("m", (3,), {"embedding": embedding}, {"embedding": constant}).passed


def test_samples_have_the_shapes_of_the_buckets():
    shapes = [batch.shape for batch in sample_batches("frames", [-1, -1, -1, 3])]
    assert shapes == [(1, 2, h, w, 3) for h, w in BUCKETS]
    assert [batch.shape for batch in sample_batches("images", [128, 128, 3])] == [(2, 128, 128, 3)]


@pytest.mark.parametrize("command", ["variant", "build-tensorrt"])
def test_the_commands_need_no_torch(command):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['cv2'] = None\n"
        "from mcjepa.cli import main\n"
        f"sys.exit(main([{command!r}, '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout
