"""Settings: presets and overrides are read as written; what does not fit is an error naming it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mcjepa.config import PRESETS, Config, ConfigError, FlowConfig, from_dict, load_config, to_dict, validate


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_the_way_through_json(preset):
    config = load_config(preset)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


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


def test_rendered_pairs_are_made_by_workers_only():
    assert load_config("nano", ["data.rendered=0.5", "data.rendering.fog=false"]).data.rendering.fog is False
    with pytest.raises(ConfigError, match=r"data\.rendered .* data\.on_device"):
        load_config("nano-gpu", ["data.rendered=0.5", "data.on_device=true"])
    with pytest.raises(ConfigError, match=r"data\.rendered .* 1\.5"):
        load_config("nano", ["data.rendered=1.5"])


def test_a_preset_of_ones_own_is_a_toml_file(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text("[train]\nsteps = 5\n")
    assert load_config(str(path)).train.steps == 5
    path.write_text("[train]\nstep = 5\n")
    with pytest.raises(ConfigError, match=r"'train\.step'"):
        load_config(str(path))


def test_nano_is_the_same_model_wherever_it_is_trained():
    assert load_config("nano").model == load_config("nano-gpu").model


@pytest.mark.parametrize("preset", ["huge", "", "missing.toml"])
def test_an_unknown_preset_is_an_error(preset):
    with pytest.raises(ConfigError, match=", ".join(PRESETS)):
        load_config(preset)


@pytest.mark.parametrize("content", [b"steps = = 5", b"[train\nsteps = 5", b"steps = '\xff'"])
def test_a_preset_that_does_not_parse_is_an_error_that_names_the_file(tmp_path: Path, content):
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.toml is no TOML file: "):
        load_config(str(path))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["train.stages=[{crop=[100, 128]}]"], r"stages\[0\]\.crop\[0\] must be a multiple of 64, got 100"),
        (["train.stages=[{crop=[64, 0]}]"], r"crop\[1\] must be above 0 and finite, got 0"),
        (["train.stages=[{image_crop=32}]"], r"image_crop must be a multiple of 64, got 32"),
        (["model.content.image_size=224"], r"model\.content\.image_size must be a multiple of 64, got 224"),
        (
            ["model.encoder.widths=[8, 8, 8]"],
            r"model\.encoder\.widths must have 6 values, got 3: \[8, 8, 8\]",
        ),
        (["model.encoder.widths=[8, 8, 8, 8, 8, 0]"], r"widths\[5\] must be above 0 and finite, got 0"),
        (["model.encoder.depths=[1]"], r"model\.encoder\.depths must have 6 values, got 1"),
        (["model.encoder.depths=[1, 1, 1, 1, 1, -1]"], r"depths\[5\] must be at least 0 and finite, got -1"),
        (["model.flow.widths=[8, 0]"], r"model\.flow\.widths\[1\] must be above 0"),
        (["model.flow.radius=0"], r"model\.flow\.radius must be above 0"),
        (["loss.variance=[1.0]"], r"loss\.variance must have 6 values, got 1"),
        (["loss.covariance=[]"], r"loss\.covariance must have 6 values, got 0"),
        (["loss.cycle=-0.1"], r"loss\.cycle must be at least 0 and finite, got -0\.1"),
        (["train.stages=[]"], r"train\.stages must hold at least 1 stage"),
        (["train.stages=[{until=0.5}]"], r"stages\[0\]\.until is the last and must be 1\.0, got 0\.5"),
        (
            ["train.stages=[{until=0.5}, {until=0.5}, {until=1.0}]"],
            r"stages\[1\]\.until must be above the 0\.5 before it, got 0\.5",
        ),
        (["train.stages=[{until=0.8}, {until=1.2}]"], r"stages\[1\]\.until must be at most 1, got 1\.2"),
        (["train.lr=0"], r"train\.lr must be above 0 and finite, got 0\.0"),
        (["train.lr=nan"], r"train\.lr must be above 0 and finite, got nan"),
        (["train.minutes=inf"], r"train\.minutes must be at least 0 and finite, got inf"),
        (["train.steps=0"], r"train\.steps must be above 0"),
        (["train.seed=-1"], r"train\.seed must be at least 0"),
        (["train.log_every=0"], r"train\.log_every must be above 0"),
        (["train.clip_norm=0"], r"train\.clip_norm must be above 0"),
        (["train.content_warmup=1.5"], r"train\.content_warmup must be at most 1"),
        (["data.synthetic.haze=1.1"], r"data\.synthetic\.haze must be at most 1, got 1\.1"),
        (["data.synthetic.haze=-1.0"], r"data\.synthetic\.haze must be at least 0"),
        (["data.synthetic.rain=1.0"], r"unknown setting 'data\.synthetic\.rain'"),
        (["data.view_min_area=2"], r"data\.view_min_area must be at most 1"),
        (["model.content.levels=[]"], r"model\.content\.levels must hold indices from 0 to 5, got \[\]"),
        (
            ["model.content.levels=[3, 6]"],
            r"model\.content\.levels must hold indices from 0 to 5, got \[3, 6\]",
        ),
        (["train.balance=gradnorm"], r"train\.balance must be one of clip, normalise, got 'gradnorm'"),
        (["data.workers=-1"], r"data\.workers must be at least 0"),
        (["loss.flow=0", "loss.content=0"], r"loss\.flow or loss\.content must be above 0"),
        (
            ["loss.invariance=0", "loss.content_variance=0", "loss.content_covariance=0"],
            r"loss\.content is 0\.5, so one of loss\.invariance, .* must be above 0",
        ),
    ],
)
def test_what_cannot_be_trained_with_is_an_error_that_names_it(items, message):
    with pytest.raises(ConfigError, match=message):
        load_config("nano", items)


NO_VIDEO_TERMS = {
    "photometric": 0.0,
    "feature": 0.0,
    "smoothness": 0.0,
    "cycle": 0.0,
    "distillation": 0.0,
} | {
    "variance": (0.0,) * 6,
    "covariance": (0.0,) * 6,
}
NO_KNOWN_MOTION_TERMS = {"known_motion": 0.0, "known_motion_levels": 0.0}


@pytest.mark.parametrize(
    ("loss", "stage", "message"),
    [
        ({}, {"batch": 0, "video_batch": 0}, r"stages\[0\]: batch \+ video_batch must be at least 1"),
        ({}, {"image_batch": 1}, r"stages\[0\]\.image_batch must be at least 2"),
        (NO_VIDEO_TERMS | NO_KNOWN_MOTION_TERMS, {}, r"loss\.flow is 1\.0, so one of loss\.known_motion"),
        (
            NO_VIDEO_TERMS,
            {"batch": 0},
            r"stages\[0\]: batch 0 and video_batch 2 need one of loss\.photometric",
        ),
        (
            NO_KNOWN_MOTION_TERMS,
            {"video_batch": 0},
            r"need one of loss\.known_motion, loss\.known_motion_levels",
        ),
    ],
)
def test_a_stage_has_data_and_the_data_has_terms(loss, stage, message):
    config = Config()
    stages = (replace(config.train.stages[0], **stage),)
    config = replace(config, loss=replace(config.loss, **loss), train=replace(config.train, stages=stages))
    with pytest.raises(ConfigError, match=message):
        validate(config)


@pytest.mark.parametrize(
    "items",
    [
        ["loss.flow=0", "train.stages=[{batch=0, video_batch=0}]"],
        ["loss.content=0", "train.stages=[{image_batch=0}]"],
        ["train.stages=[{batch=0}]"],
        ["train.stages=[{video_batch=0}]"],
        ["data.workers=0", "train.warmup_steps=0", "train.content_warmup=0", "train.checkpoint_minutes=0"],
    ],
)
def test_what_a_switched_off_loss_does_not_need_may_be_missing(items):
    load_config("nano", items)
