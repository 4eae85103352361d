"""Export and parity of a small model: the graphs, the refusal, the model card."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mcjepa import checkpoint, cli, model_card, parity
from mcjepa.config import Config, ContentConfig, EncoderConfig, FlowConfig, ModelConfig
from mcjepa.export import export
from mcjepa.model import MCJEPA
from mcjepa.onnx_export import FlowModel, Part, graphs, parts
from mcjepa.predictors import OnnxModels, TorchModel
from mcjepa.quality import QUALITIES, details_name, flow_name, match_name
from onnx import ModelProto, load_model

pytestmark = pytest.mark.timeout(900)  # an export takes minutes

# A flat softmax: at the usual temperature an untrained net amplifies rounding to pixels.
FLOW = FlowConfig(match_dim=4, hidden_dim=4, radius=1, widths=(8,), temperature=1.0)
SMALL = ModelConfig(
    encoder=EncoderConfig(widths=(4, 4, 8, 8, 8, 8), depths=(0, 0, 1, 0, 0, 0)),
    flow=FLOW,
    content=ContentConfig(expander_dim=8, image_size=64),
)


@pytest.fixture(scope="module")
def frames():
    """Three frames of a smooth texture that moves."""
    rng = np.random.default_rng(3)
    texture = cv2.resize(
        rng.integers(0, 255, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    return [np.ascontiguousarray(texture[5 * i : 5 * i + 200, 3 * i : 3 * i + 280]) for i in range(3)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    optimizer = torch.optim.AdamW(MCJEPA(SMALL).parameters())
    return checkpoint.save(folder, MCJEPA(SMALL), Config(model=SMALL), 7, 1.5, optimizer.state_dict())


@pytest.fixture(scope="module")
def repository(saved, frames, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "model_repository"
    export(saved, target, "small-1", frames, "mcjepa verify")
    return target


@pytest.mark.slow
def test_the_files_do_not_tell_where_they_were_made(repository):
    source = str(Path(parity.__file__).parent).encode()
    files = list(repository.glob("*/1/*.onnx"))
    assert len(files) == 12
    assert [p for p in files if source in p.read_bytes()] == []


@pytest.mark.slow
def test_exported_models_answer_as_torch_does_at_any_size(saved, repository):
    model, onnx = checkpoint.load(saved).model, OnnxModels(repository)
    rng = np.random.default_rng(0)
    for batch, n, h, w in ((1, 2, 64, 128), (2, 4, 128, 64), (3, 3, 64, 64)):
        smooth = rng.integers(0, 255, (batch * n, 6, 6, 3), np.uint8)
        clip = np.stack([cv2.resize(f, (w, h), interpolation=cv2.INTER_CUBIC) for f in smooth])
        clip = clip.reshape(batch, n, h, w, 3)
        with torch.no_grad():
            forward, backward, _ = FlowModel(model, bidirectional=True).eval()(torch.from_numpy(clip))
        assert forward.shape == (batch, n - 1, 2, h, w)
        both = "mcjepa_flow_bidirectional"
        np.testing.assert_allclose(onnx.run("mcjepa_flow", clip, "flow"), forward, atol=0.01)
        np.testing.assert_allclose(onnx.run(both, clip, "flow"), forward, atol=0.01)
        np.testing.assert_allclose(onnx.run(both, clip, "flow_backward"), backward, atol=0.01)
        for quality in QUALITIES:
            name = flow_name(quality)
            with torch.no_grad():
                flow, _ = FlowModel(model, quality=quality).eval()(torch.from_numpy(clip))
            np.testing.assert_allclose(onnx.run(name, clip, "flow"), flow, atol=0.01)
            for output in ("flow", "embedding"):
                found = [onnx.run_parts(quality, one[None], output) for one in clip]
                np.testing.assert_array_equal(np.concatenate(found), onnx.run(name, clip, output))


@pytest.mark.slow
def test_a_clip_is_its_pairs(repository, frames):
    onnx = OnnxModels(repository)
    clip = np.stack([cv2.resize(f, (128, 64)) for f in frames])[None]
    flow = onnx.run("mcjepa_flow", clip, "flow")
    for i in range(2):
        pair = onnx.run("mcjepa_flow", clip[:, i : i + 2], "flow")
        np.testing.assert_allclose(pair[:, 0], flow[:, i], atol=1e-3)


@pytest.mark.slow
def test_predictors_agree_on_odd_sizes_and_keep_them(saved, repository, frames):
    torch_model, onnx = TorchModel(checkpoint.load(saved).model), OnnxModels(repository)
    img1, img2 = frames[0][:75, :101], frames[1][:75, :101]
    assert onnx.flow(img1, img2).shape == (75, 101, 2)
    np.testing.assert_allclose(onnx.flow(img1, img2), torch_model.flow(img1, img2), atol=0.01)
    np.testing.assert_allclose(onnx.embed(frames), torch_model.embed(frames), atol=1e-4)


@pytest.mark.slow
def test_parity_refuses_other_weights_and_keeps_the_old_repository(repository, saved, frames, tmp_path):
    torch.manual_seed(1)
    with pytest.raises(parity.ParityError, match=r"flow limit 0\.01 px"):
        parity.check_parity(MCJEPA(SMALL), repository, frames)
    before = (repository / "MODEL_CARD.md").read_text()

    def as_before(part: Part) -> ModelProto:  # in place of a minute of exporting
        (file,) = repository.glob(f"*/1/{part.name}.onnx")
        return load_model(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcjepa.export.export_part", as_before)
        patch.setattr(parity, "FLOW_LIMIT", -1.0)
        with pytest.raises(parity.ParityError):
            export(saved, repository, "small-2", frames, "again")
    assert (repository / "MODEL_CARD.md").read_text() == before


@pytest.mark.slow
def test_the_card_holds_the_measured_figures_of_these_weights_only(repository):
    card = (repository / "MODEL_CARD.md").read_text()
    stored = json.loads((repository / "results.json").read_text())
    assert stored["weights_sha256"] in card
    assert "| mcjepa_flow | 448x1024 |" in card
    assert "| mcjepa_flow in parts | 448x1024 |" in card
    assert "nearest neighbours" not in card  # not measured yet
    row = {"frames": 2, "mean": 0.9, "min": 0.8}
    model_card.save_result(repository, "agreement", row, "mcjepa evaluate agreement clip.mp4")
    card = (repository / "MODEL_CARD.md").read_text()
    assert "mean 0.9, least 0.8" in card
    assert "`mcjepa evaluate agreement clip.mp4`" in card
    assert "| mcjepa_flow | 448x1024 |" in card


@pytest.mark.slow
def test_verify_says_parity_and_names_a_missing_checkpoint(repository, saved, frames, tmp_path, capsys):
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame[..., ::-1])
    common = ["--model-repository", str(repository), "--frames", str(tmp_path)]
    assert cli.main(["verify", "--checkpoint", str(saved), *common]) == 0
    assert "mcjepa_flow_bidirectional" in capsys.readouterr().out
    assert cli.main(["verify", "--checkpoint", str(tmp_path), *common]) == 1
    assert "no checkpoint in" in capsys.readouterr().err


def test_cosine_distance_of_equal_opposite_and_scaled_vectors():
    a = np.array([[1.0, 2.0], [3.0, -1.0]])
    assert parity.cosine_distance(a, 5 * a) == pytest.approx(0.0, abs=1e-12)
    assert parity.cosine_distance(a, np.array([[1.0, 2.0], [-3.0, 1.0]])) == pytest.approx(2.0)


def test_a_report_passes_within_both_limits_only():
    good = parity.Parity("m", "64x64", 0.009, 0.9e-4)
    assert good.passed
    assert not dataclasses.replace(good, flow_px=0.011).passed
    assert dataclasses.replace(good, flow_px=0.011, rounding_px=0.002).passed
    assert not dataclasses.replace(good, embedding_cosine=1.1e-4).passed
    assert dataclasses.replace(good, flow_px=None).passed


def test_too_few_frames_is_an_error_naming_the_count(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="3 frames of one size are needed"):
        parity.read_frames(tmp_path)


def test_the_parts_give_and_take_the_same_and_no_tensor_is_both_start_and_end():
    found = {part.name: part for part in parts(MCJEPA(SMALL))}
    *maps, small = found["frame"].output_names
    assert list(found["embed"].inputs) == [small]
    for quality in QUALITIES:
        match = found[match_name(quality)]
        names = [*maps, *found[details_name(quality)].output_names] if quality.detail_passes else maps
        assert list(match.inputs) == [f"{end}_{name}" for end in ("start", "end") for name in names]
        assert len({id(tensor) for tensor in match.inputs.values()}) == 2 * len(names)


def test_the_graphs_with_the_names_of_the_contract():
    found = {g.name: (g.input_name, g.output_names) for g in graphs(MCJEPA(SMALL))}
    assert found == {
        "mcjepa_flow": ("frames", ("flow", "embedding")),
        "mcjepa_flow_balanced": ("frames", ("flow", "embedding")),
        "mcjepa_flow_best": ("frames", ("flow", "embedding")),
        "mcjepa_flow_bidirectional": ("frames", ("flow", "flow_backward", "embedding")),
        "mcjepa_embed": ("images", ("embedding", "features")),
    }
