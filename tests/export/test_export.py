"""What an export keeps, says and leaves behind; the graphs themselves are those of test_parity.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mcjepa import checkpoint, cli, export as exporting, model_card
from mcjepa.config import Config, ModelConfig
from mcjepa.errors import McjepaError
from mcjepa.model import MCJEPA
from mcjepa.parity import Parity, ParityError

GOOD = Parity("mcjepa_flow", "128x192", 0.001, 1e-9)
BAD = Parity("mcjepa_flow_bidirectional", "448x1024", 0.5, 1e-9)


@pytest.fixture
def saved(tmp_path: Path, small_model: ModelConfig) -> Path:
    torch.manual_seed(0)
    model = MCJEPA(small_model)
    return checkpoint.save(tmp_path / "my-run", model, Config(model=small_model), 7, 1.5, {})


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What is exported, in place of minutes of torch's exporter; parity holds."""
    files = {f"{name}/1/model.onnx": b"first" for name in ("mcjepa_flow", "mcjepa_embed")}

    def write(model: MCJEPA, repository: Path) -> None:
        for name, data in files.items():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes(data)

    monkeypatch.setattr(exporting, "_write_graphs", write)
    monkeypatch.setattr(exporting, "check_parity", lambda *_: [GOOD])
    return files


def export(saved: Path, repository: Path, version: str | None = None) -> str:
    exporting.export(saved, repository, version, [], "mcjepa verify")
    return (repository / "MODEL_CARD.md").read_text()


def measure(repository: Path) -> None:
    figures = {"miou": 0.775, "miou_most_frequent": 0.1, "pixel_accuracy": 0.9}
    segment = {"train_images": 9, "test_images": 3, "classes": 2} | figures
    flow = {"benchmark": "b", "dataset": "all pairs", "method": "mcjepa", "pairs": 3, "epe": 1.25}
    model_card.save_result(repository, "segment", segment, "mcjepa evaluate segment")
    model_card.save_result(repository, "flow", [flow], "mcjepa evaluate flow b")
    model_card.save_result(repository, "limits", [{"scene": "a", "mcjepa": 2.5}], "mcjepa evaluate limits p")
    (repository / model_card.LIMITS_PICTURE).write_bytes(b"picture")


def test_what_was_measured_on_the_same_weights_stays(saved, graphs, tmp_path):
    repository = tmp_path / "models"
    export(saved, repository)
    measure(repository)
    card = export(saved, repository, "second")
    assert "# Model card: second" in card
    assert "0.775" in card
    assert "1.25" in card
    assert "earlier export" not in card
    assert (repository / model_card.LIMITS_PICTURE).read_bytes() == b"picture"
    assert set(json.loads((repository / "results.json").read_text())["results"]) == {
        *("segment", "flow", "limits", "parity")
    }


def test_what_was_measured_on_another_graph_says_so(saved, graphs, tmp_path):
    repository = tmp_path / "models"
    export(saved, repository)
    measure(repository)
    graphs["mcjepa_flow/1/model.onnx"] = b"second"
    sections = {part.splitlines()[0]: part for part in export(saved, repository).split("\n## ")}
    assert "earlier export" in sections[model_card.TITLES["flow"]]
    assert "earlier export" not in sections[model_card.TITLES["segment"]]
    assert "earlier export" not in sections[model_card.TITLES["parity"]]


def test_what_was_measured_on_other_weights_goes(saved, graphs, tmp_path, small_model):
    repository = tmp_path / "models"
    export(saved, repository)
    measure(repository)
    torch.manual_seed(1)
    other = checkpoint.save(tmp_path / "other", MCJEPA(small_model), Config(model=small_model), 7, 1.5, {})
    card = export(other, repository)
    assert "0.775" not in card
    assert not (repository / model_card.LIMITS_PICTURE).exists()


def test_a_failed_parity_names_the_row_and_leaves_all_as_it_was(saved, graphs, tmp_path, monkeypatch):
    repository = tmp_path / "models"
    before = export(saved, repository)
    monkeypatch.undo()
    monkeypatch.setattr(exporting, "_write_graphs", lambda model, part: part.mkdir())

    def fail(*_: object) -> list[Parity]:
        raise ParityError(BAD.excess())

    monkeypatch.setattr(exporting, "check_parity", fail)
    with pytest.raises(ParityError, match=r"mcjepa_flow_bidirectional at 448x1024: flow 0\.5 px") as caught:
        export(saved, repository)
    assert "Nothing was written" in str(caught.value)
    assert "--frames" in str(caught.value)
    assert (repository / "MODEL_CARD.md").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "my-run"]


def test_an_export_that_ends_early_leaves_no_folder(saved, tmp_path, monkeypatch):
    def stop(model: MCJEPA, part: Path) -> None:
        part.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_write_graphs", stop)
    with pytest.raises(KeyboardInterrupt):
        export(saved, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["my-run"]


def test_a_report_names_what_is_over_its_limit():
    assert GOOD.excess() == ""
    assert "448x1024" in BAD.excess()
    assert "cosine" in Parity("m", "64x64", None, 0.1).excess()
    assert "cosine" not in BAD.excess()


def test_the_card_is_what_the_checkpoint_says(saved, graphs, tmp_path):
    card = export(saved, tmp_path / "models")
    assert "# Model card: my-run-7" in card  # the run and its steps, where nothing is stated
    assert "tiny-ImageNet" not in card
    assert "research use" not in card
    sidecar = json.loads((saved / checkpoint.SIDECAR).read_text())
    said = {"name": "big", "version": "2", "data": "My pictures.", "license": "MIT", "evaluation": "By eye."}
    (saved / checkpoint.SIDECAR).write_text(json.dumps(sidecar | {"card": said}))
    card = export(saved, tmp_path / "models")
    assert "# Model card: big-2" in card
    assert "| license | MIT |" in card
    assert "My pictures." in card
    assert "By eye." in card


@pytest.mark.parametrize("card", [{"licence": "MIT"}, {"version": 2}, ["nano"], "nano"])
def test_a_sidecar_with_another_card_is_refused(saved, card):
    sidecar = json.loads((saved / checkpoint.SIDECAR).read_text())
    (saved / checkpoint.SIDECAR).write_text(json.dumps(sidecar | {"card": card}))
    with pytest.raises(checkpoint.CheckpointError, match="card may hold"):
        checkpoint.load(saved)


def test_errors_of_torch_keep_their_traceback_and_ours_are_one_line(monkeypatch, capsys):
    def raise_from(error: Exception) -> None:
        def run(args: object) -> None:
            raise error

        monkeypatch.setattr(cli, "_export", run)

    for ours in (McjepaError("a"), ParityError("b"), checkpoint.CheckpointError("c"), ValueError("d")):
        raise_from(ours)
        assert cli.main(["export"]) == 1
        assert capsys.readouterr().err == f"mcjepa export: {ours}\n"
    raise_from(RuntimeError("CUDA error"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        cli.main(["export"])


def test_a_device_that_is_not_there_is_named(tmp_path, capsys):
    assert cli.main(["train", "--run", str(tmp_path / "run"), "--device", "abacus"]) == 1
    assert capsys.readouterr().err.startswith("mcjepa train: --device abacus: ")


def test_a_variant_goes_beside_its_repository(monkeypatch, capsys, tmp_path):
    written = []
    monkeypatch.setattr("mcjepa.triton_variants.write_variant", lambda *a: written.append(a))
    repository = tmp_path / "models"
    assert cli.main(["variant", "python", "--model-repository", str(repository)]) == 0
    target = tmp_path / "models-python"
    assert capsys.readouterr().out == f"{target}\n"
    other = ["--output", str(tmp_path / "out")]
    assert cli.main(["variant", "ort-trt", "--model-repository", str(repository), *other]) == 0
    assert written == [(repository, target, "python"), (repository, tmp_path / "out", "ort-trt")]
