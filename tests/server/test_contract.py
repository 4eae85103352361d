"""Reading config.pbtxt, and a server on a repository that breaks the contract."""

import shutil

import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.contract import load_contract, read_config
from mcjepa_server.engines.factory import find_model_repository
from mcjepa_server.errors import ContractError
from starlette.testclient import TestClient


def test_a_good_repository(repository):
    contract = load_contract(repository)
    assert contract.model_version == "tiny-test"
    assert contract.stride == 64
    assert contract.mean == (0.485, 0.456, 0.406)
    assert contract.embedding_size == 3
    assert contract.max_batch_size == 4


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("contract_version", "2"),
        ("model_version", " "),
        ("weights_sha256", "abc"),
        ("weights_sha256", "g" * 64),
        ("stride", "0"),
        ("stride", "64.0"),
        ("mean", "0.5,0.5"),
        ("std", "a,b,c"),
        ("embedding_size", "-1"),
        ("embed_image_size", ""),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(tmp_path, write_config, parameter, value):
    write_config(tmp_path, "mcjepa_flow", **{parameter: value})
    with pytest.raises(ContractError, match=parameter) as caught:
        read_config(tmp_path / "config.pbtxt", "mcjepa_flow")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("parameter", ["contract_version", "weights_sha256", "stride", "license"])
def test_a_missing_parameter_is_named(tmp_path, write_config, parameter):
    write_config(tmp_path, "mcjepa_flow", **{parameter: None})
    with pytest.raises(ContractError, match=f"parameter '{parameter}' is missing"):
        read_config(tmp_path / "config.pbtxt", "mcjepa_flow")


def test_files_that_are_no_configuration(tmp_path, write_config):
    path = tmp_path / "config.pbtxt"
    with pytest.raises(ContractError, match="missing"):
        read_config(path, "mcjepa_flow")
    for data in (b"not a config {", b"\xff\xfe\x00", b"unknown_field: 1"):
        path.write_bytes(data)
        with pytest.raises(ContractError, match="cannot be read"):
            read_config(path, "mcjepa_flow")
    write_config(tmp_path, "other")
    with pytest.raises(ContractError, match="model named 'other'"):
        read_config(path, "mcjepa_flow")
    write_config(tmp_path, "mcjepa_flow", max_batch_size=0)
    with pytest.raises(ContractError, match="max_batch_size is 0"):
        read_config(path, "mcjepa_flow")


def test_models_of_different_exports(repository, write_config):
    write_config(repository / "mcjepa_embed", "mcjepa_embed", weights_sha256="cd" * 32)
    with pytest.raises(ContractError, match="mcjepa_flow and mcjepa_embed disagree on weights_sha256"):
        load_contract(repository)


@pytest.mark.parametrize("model", ["mcjepa_flow", "mcjepa_flow_bidirectional", "mcjepa_embed"])
def test_a_mismatch_leaves_the_server_alive_but_not_ready(repository, model, check_problem, pair):
    shutil.rmtree(repository / model)
    with TestClient(create_app(Settings(model_repository=repository))) as client:
        body = check_problem(client.get("/readyz"), 503, "not_ready")
        assert f"{model}/config.pbtxt is missing" in body["detail"]
        check_problem(client.post("/v1/flow", files=pair), 503, "not_ready")
        assert client.get("/healthz").status_code == 200


def test_a_repaired_repository_becomes_ready(repository, write_config, check_problem):
    write_config(repository / "mcjepa_flow", "mcjepa_flow", stride="32")
    with TestClient(create_app(Settings(model_repository=repository))) as client:
        assert "stride" in check_problem(client.get("/readyz"), 503, "not_ready")["detail"]
        write_config(repository / "mcjepa_flow", "mcjepa_flow")
        client.portal.call(client.app.state.service.check)
        assert client.get("/readyz").status_code == 200


def test_the_setting_goes_before_the_current_folder(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.parent)
    assert find_model_repository(Settings()) == repository
    monkeypatch.setenv("MCJEPA_MODEL_REPOSITORY", str(tmp_path / "nowhere"))
    with pytest.raises(ContractError, match=r"nowhere.*--model-repository"):
        find_model_repository(Settings())
