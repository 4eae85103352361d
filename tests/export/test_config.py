"""Settings: presets and overrides are read as written; what does not fit is an error naming it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcjepa.config import Config, ConfigError, FlowConfig, from_dict, load_config, to_dict


@pytest.mark.parametrize("preset", ["nano", "tiny"])
def test_a_preset_survives_the_way_through_json(preset):
    config = load_config(preset)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("preset", ["nano", "tiny"])
def test_the_stages_of_a_preset_can_be_run(preset):
    stages = load_config(preset).train.stages
    assert stages[-1].until == 1.0
    assert [s.until for s in stages] == sorted(s.until for s in stages)
    assert all(side % 64 == 0 for s in stages for side in (*s.crop, s.image_crop))


def test_defaults_are_the_sizes_of_nano():
    assert load_config("nano").model == Config().model


@pytest.mark.parametrize(
    ("item", "read"),
    [
        ("train.lr=3e-4", lambda c: c.train.lr == 3e-4),
        ("train.lr=1", lambda c: c.train.lr == 1.0 and isinstance(c.train.lr, float)),
        ("train.bf16=false", lambda c: c.train.bf16 is False),
        ("train.seed=7", lambda c: c.train.seed == 7),
        ('data.photos=["a.tar", "b"]', lambda c: c.data.photos == ("a.tar", "b")),
        ("data.video_cache=runs/cache", lambda c: c.data.video_cache == "runs/cache"),
        ("data.video_cache=a=b", lambda c: c.data.video_cache == "a=b"),
        ("model.flow.radius=3", lambda c: c.model.flow == FlowConfig(radius=3)),
        ("train.stages=[{crop=[64, 128], batch=2}]", lambda c: c.train.stages[0].crop == (64, 128)),
    ],
)
def test_an_override_sets_what_it_names(item, read):
    assert read(load_config("nano", [item]))


def test_the_last_of_two_overrides_counts():
    assert load_config("nano", ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.learning_rate=1", r"'train\.learning_rate'.*known here:.*\blr\b"),
        ("trian.lr=1", r"'trian'.*\btrain\b"),
        ("model.encoder.depth=[1]", r"'model\.encoder\.depth'"),
        ("train.stages=[{size=3}]", r"'train\.stages\[0\]\.size'"),
        ("train.lr=fast", r"train\.lr must be float, got 'fast'"),
        ("train.lr=true", r"train\.lr must be float, got True"),
        ("train.bf16=False", r"train\.bf16 must be bool, got 'False'"),
        ("train.bf16=1", r"train\.bf16 must be bool, got 1"),
        ("train.steps=1.5", r"train\.steps must be int, got 1\.5"),
        ("data.photos=a.tar", r"data\.photos must be a list, got 'a\.tar'"),
        ("data.photos=[1]", r"data\.photos\[0\] must be str, got 1"),
        ("train.stages=[{crop=[64]}]", r"train\.stages\[0\]\.crop must have 2 values, got 1"),
        ("train=5", r"train is a section, got 5"),
        ("train.stages=[3]", r"train\.stages\[0\] is a section, got 3"),
        ("train.lr", r"section\.key=value, got 'train\.lr'"),
        ("train.stages.0.batch=4", r"stages is not a section"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(item, message):
    with pytest.raises(ConfigError, match=message):
        load_config("nano", [item])


def test_a_preset_of_ones_own_is_a_toml_file(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text("[train]\nsteps = 5\n")
    assert load_config(str(path)).train.steps == 5
    path.write_text("[train]\nstep = 5\n")
    with pytest.raises(ConfigError, match=r"'train\.step'"):
        load_config(str(path))


@pytest.mark.parametrize("preset", ["huge", "", "missing.toml"])
def test_an_unknown_preset_is_an_error(preset):
    with pytest.raises(ConfigError, match="nano, tiny"):
        load_config(preset)
