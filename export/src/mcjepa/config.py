"""Configuration: frozen dataclasses, filled from a TOML preset and `--set section.key=value` overrides.

An unknown section or key is an error, so that a misspelt setting never trains the default in silence; so is
a value that cannot be trained with, before a run has begun.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mcjepa.quality import QUALITIES

T = TypeVar("T")

# What `validate` asks of numbers: finite and above 0, or where named here at least 0 (as are all of `loss`,
# and of `data.synthetic`, which are at most 1 too).
MAY_BE_0 = {
    "model.encoder.depths",
    "model.encoder.layer_scale",
    "model.flow.recurrent.iterations",
    "model.content.levels",
    "model.content.whitening",
    "data.rendered",
    "data.workers",
    "train.minutes",
    "train.warmup_steps",
    "train.weight_decay",
    "train.content_warmup",
    "train.ema_decay",
    "train.seed",
    "train.checkpoint_minutes",
    "train.stages.batch",
    "train.stages.video_batch",
    "train.stages.image_batch",
}
AT_MOST_1 = {
    "data.rendered",
    "data.view_min_area",
    "loss.known_motion_decay",
    "model.content.whitening",
    "train.content_warmup",
    "train.ema_decay",
    "train.stages.until",
}
MULTIPLES_OF_64 = {"model.content.image_size", "train.stages.crop", "train.stages.image_crop"}
LENGTHS = {
    "model.encoder.widths": 6,  # levels, strides 2 to 64
    "model.encoder.depths": 6,
    "model.encoder.kernels": 6,
    "loss.variance": 6,
    "loss.covariance": 6,
}
PRESETS = ("nano", "nano-gpu", "nano-recurrent", "tiny", "paper")
BALANCES = ("clip", "normalise")
KNOWN_MOTION_TERMS = ("known_motion", "known_motion_levels")
PAPER_VIDEO_TERMS = ("photometric", "feature", "smoothness", "cycle", "variance", "covariance")
VIDEO_TERMS = (*PAPER_VIDEO_TERMS, "distillation")
CONTENT_TERMS = ("invariance", "content_variance", "content_covariance")


class ConfigError(ValueError):
    """A configuration names an unknown key, or gives a value of the wrong type or out of its limits."""


@dataclass(frozen=True)
class EncoderConfig:
    """Six-level ConvNeXt pyramid; level l (1..6) has stride 2**l."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 192, 256)
    depths: tuple[int, ...] = (0, 1, 2, 3, 2, 1)  # ConvNeXt blocks a level
    kernels: tuple[int, ...] = (
        3,
        3,
        3,
        7,
        7,
        7,
    )  # of their depthwise convolutions, odd; large ones are slow at fine levels
    expansion: int = 2  # hidden channels of a block's MLP, times its width; 4 in the paper
    layer_scale: float = 0.1  # 1e-6 (the usual value) keeps the blocks asleep in short training runs


@dataclass(frozen=True)
class RecurrentConfig:
    """Recurrent matching at stride 16 (model/recurrent.py); 0 iterations: the model has none."""

    iterations: int = 0  # in training, and by default at inference, which may take more or fewer
    match_dim: int = 64  # channels that are matched
    context_dim: int = 64  # channels of frame 1 that every iteration sees
    state_dim: int = 96  # channels of the GRU's state
    radius: int = 4  # of the costs that are looked up, in px of each scale
    scales: tuple[int, ...] = (1, 2, 4, 8)  # by which the costs are pooled


@dataclass(frozen=True)
class FlowConfig:
    """Coarse-to-fine matching head, strides 32 to 8."""

    match_dim: int = 32  # channels of the normalised matching features
    hidden_dim: int = 32  # channels handed from one level to the next
    radius: int = 4  # correlation radius, in pixels of the level
    bottleneck: int = 48  # channels that a 1x1 convolution leaves of what the estimator takes
    widths: tuple[int, ...] = (64, 64, 48, 48)  # estimator shared by all levels
    temperature: float = 60.0  # initial, on cosine similarities
    max_flow: float = 512.0  # px at full resolution; flow is clipped here at every level
    recurrent: RecurrentConfig = field(default_factory=RecurrentConfig)


@dataclass(frozen=True)
class ContentConfig:
    """Embedding (whitened statistics of the coarse levels) and the expander, for training only."""

    expander_dim: int = 768
    embedding_dim: int = 384
    levels: tuple[int, ...] = (
        1,
        2,
        3,
    )  # indices of the levels whose statistics make the embedding, 0 is stride 2
    whitening: float = 0.35  # power of the variances, 0 (PCA) to 0.5 (all the same)
    image_size: int = 128  # side S of the images that the embedding model takes


@dataclass(frozen=True)
class ModelConfig:
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    content: ContentConfig = field(default_factory=ContentConfig)


@dataclass(frozen=True)
class LossConfig:
    """One weight a term; 0 switches a term off and skips its computation."""

    # on video pairs (no ground truth)
    photometric: float = 0.5
    feature: float = 0.1
    smoothness: float = 0.5
    cycle: float = 0.02
    # variance and covariance of the features of levels 1 (finest) to 6
    variance: tuple[float, ...] = (0.01, 0.01, 0.01, 0.01, 0.001, 0.0001)
    covariance: tuple[float, ...] = (0.04, 0.04, 0.001, 0.0, 0.0, 0.0)
    # ours on video pairs: the averaged weights, which see more of the frames, teach changed crops of them
    distillation: float = 0.3
    # on known-motion pairs
    known_motion: float = 1.0
    known_motion_levels: float = 0.15  # the same on every intermediate flow
    known_motion_decay: float = 1.0  # each earlier of these counts so many times the next (RAFT: 0.8)
    # the whole of the flow terms above, and the whole of the content terms below
    flow: float = 1.0
    content: float = 1.0
    # VICReg
    invariance: float = 25.0
    content_variance: float = 25.0
    content_covariance: float = 1.0


@dataclass(frozen=True)
class RenderConfig:
    """What rendered scenes hold; each can be switched off, so that what it brings can be measured."""

    bodies: bool = True  # people and animals with joints
    thin: bool = True  # poles, wires, fences, leaves, legs of chairs
    textureless: bool = True
    repeated: bool = True  # bricks, windows, checks
    water: bool = True
    highlights: bool = True  # gloss and reflections
    shadows: bool = True
    light_changes: bool = True  # between the frames
    fog: bool = True
    motion_blur: bool = True
    focus_blur: bool = True


@dataclass(frozen=True)
class SyntheticConfig:
    """How often known-motion pairs have each thing: probabilities, 0 switches it off."""

    # motions, of each pair
    tiny_motion: float = 0.12  # nothing moves by more than about 3 px
    still_camera: float = 0.12  # only objects move
    turning: float = 0.15  # the camera rolls and zooms
    stretch: float = 0.3  # the whole pair is scaled, its height and width apart, and its flow with it
    # cut-outs, of each
    fast: float = 0.5  # moves far by itself
    limbs: float = 0.3  # turns about a joint at the end of the cut-out behind it
    holed: float = 0.25  # a ring, a fence or a branch
    # surfaces, of each layer
    sharp: float = 0.6  # about one pixel of the photo to a pixel, others are enlarged
    plain: float = 0.05  # without texture
    repeated: float = 0.05  # a piece of a photo, again and again
    defocus: float = 0.1
    # light and camera, of each pair
    motion_blur: float = 0.15
    shadows: float = 0.2  # move by themselves, without flow
    haze: float = 0.12
    uneven_light: float = 0.2
    dark: float = 0.12
    erased: float = 0.2  # patches of frame 2
    relight: float = 1.0  # gamma, contrast, colour, for both frames and for each
    soft_frame: float = 0.2  # of each frame: blurred a little
    noise: float = 0.4  # of each frame
    blocks: float = 0.15  # as strong JPEG compression leaves them


@dataclass(frozen=True)
class DataConfig:
    photos: tuple[str, ...] = ()  # image folders or tars: layers of known-motion pairs
    videos: tuple[str, ...] = ()  # video files, frame folders, tars of frame folders
    images: tuple[str, ...] = ()  # image folders or tars: content training
    video_cache: str = "runs/video-cache"
    video_short_side: int = 288  # px; video files are decoded once, to this size
    rendered: float = 0.0  # share of the known-motion pairs that are rendered scenes
    rendering: RenderConfig = field(default_factory=RenderConfig)
    view_min_area: float = 0.08  # smallest share of an image that a view shows
    workers: int = 1  # processes that make batches
    on_device: bool = False  # batches are made on the training device instead, for GPUs; without video pairs
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)  # of known-motion pairs


@dataclass(frozen=True)
class StageConfig:
    """One stage of the flow curriculum; batches are those of all training processes together."""

    until: float = 1.0  # share of the run at which the stage ends
    crop: tuple[int, int] = (128, 192)  # (H, W) px, multiples of 64
    batch: int = 8  # known-motion pairs a step
    video_batch: int = 2  # video pairs a step
    max_motion: float = 20.0  # px
    image_batch: int = 128  # still images a step, two views each
    image_crop: int = 64  # px, side of a view, a multiple of 64


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 20000  # length of the run; ignored when minutes is above 0
    minutes: float = 0.0  # length of the run by the clock (all its parts together)
    lr: float = 6e-4
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    # clip_norm is for the gradients of the flow and the content losses, each on its own: "clip" scales those
    # above it, "normalise" always, so that what reaches the encoder has this norm
    balance: str = "clip"
    clip_norm: float = 1.0
    ema_decay: float = 0.998  # of the averaged weights, those that are exported
    content_warmup: float = 0.02  # share of the run before flow starts
    bf16: bool = True
    seed: int = 0
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    qualities: tuple[str, ...] = ()  # whose passes the flow losses see, step by step in turn; none: one pass
    frozen: tuple[str, ...] = ()  # parts of the model that stay as they are: "encoder", "flow_head", ...
    stages: tuple[StageConfig, ...] = (StageConfig(),)


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load_config(preset: str, overrides: Sequence[str] = ()) -> Config:
    """Read a preset (one of PRESETS or a TOML file) and apply overrides `section.key=value`.

    Values are TOML (`train.lr=3e-4`, `data.photos=["a.tar"]`); a bare word counts as a string.
    Raises ConfigError for an unknown preset, section or key, a file that is no TOML, or a value of the wrong
    type or out of its limits.
    """
    tree = _read_preset(preset)
    for item in overrides:
        _override(tree, item)
    config = from_dict(Config, tree)
    validate(config)
    return config


def validate(config: Config) -> None:
    """Raise ConfigError, naming the setting, its limit and its value, where training could not work."""
    for name, value in _leaves(config, ""):
        _check_number(name, re.sub(r"\[\d+\]", "", name), value)
    levels = config.model.content.levels
    if not levels or max(levels) > 5:
        raise ConfigError(f"model.content.levels must hold indices from 0 to 5, got {list(levels)}")
    for name, length in LENGTHS.items():
        value = attrgetter(name)(config)
        if len(value) != length:
            raise ConfigError(f"{name} must have {length} values, got {len(value)}: {list(value)}")
    _check_course(config.train.stages)
    _check_losses(config.loss)
    if config.train.balance not in BALANCES:
        raise ConfigError(f"train.balance must be one of {', '.join(BALANCES)}, got {config.train.balance!r}")
    if config.data.on_device and config.data.rendered:
        raise ConfigError(f"data.rendered must be 0 with data.on_device, got {config.data.rendered}")
    if unknown := sorted({*config.train.qualities} - {quality.name for quality in QUALITIES}):
        names = ", ".join(quality.name for quality in QUALITIES)
        raise ConfigError(f"train.qualities must be of {names}, got {', '.join(unknown)}")
    for i, stage in enumerate(config.train.stages):
        _check_batches(f"train.stages[{i}]", stage, config.loss)
        if config.data.on_device and config.loss.flow > 0 and stage.video_batch:
            raise ConfigError(
                f"train.stages[{i}].video_batch must be 0 with data.on_device, got {stage.video_batch}"
            )


def in_use(loss: LossConfig, terms: Sequence[str]) -> bool:
    """Whether any of the named terms has a weight above 0."""
    return any(value > 0 for term in terms for _, value in _leaves(getattr(loss, term), term))


def from_dict(cls: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from nested mappings; unknown keys and wrong types raise ConfigError."""
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            raise ConfigError(f"unknown setting {where + key!r}; known here: {', '.join(sorted(known))}")
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in tree.items()}
    return replace(cls(), **values)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: plain nested dicts, ready for JSON."""
    return asdict(config)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """All values that are no section and no list, with their names: `train.stages[0].crop[1]`."""
    if is_dataclass(value):
        for f in fields(value):
            yield from _leaves(getattr(value, f.name), f"{where}.{f.name}" if where else f.name)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{where}[{i}]")
    else:
        yield where, value


def _check_number(name: str, setting: str, value: Any) -> None:
    if isinstance(value, (str, bool)):
        return
    probability = setting.startswith("data.synthetic.")
    may_be_0 = probability or setting in MAY_BE_0 or setting.startswith("loss.")
    if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_0):
        raise ConfigError(f"{name} must be {'at least' if may_be_0 else 'above'} 0 and finite, got {value}")
    if (probability or setting in AT_MOST_1) and value > 1:
        raise ConfigError(f"{name} must be at most 1, got {value}")
    if setting in MULTIPLES_OF_64 and value % 64:
        raise ConfigError(f"{name} must be a multiple of 64, got {value}")


def _check_course(stages: Sequence[StageConfig]) -> None:
    ends = [stage.until for stage in stages]
    if not ends:
        raise ConfigError("train.stages must hold at least 1 stage, got none")
    for i, (earlier, later) in enumerate(pairwise(ends), start=1):
        if later <= earlier:
            raise ConfigError(f"train.stages[{i}].until must be above the {earlier} before it, got {later}")
    if ends[-1] != 1.0:
        raise ConfigError(f"train.stages[{len(ends) - 1}].until is the last and must be 1.0, got {ends[-1]}")


def _check_losses(loss: LossConfig) -> None:
    if loss.flow == 0 and loss.content == 0:
        raise ConfigError("loss.flow or loss.content must be above 0, got 0 for both")
    if loss.flow > 0 and not in_use(loss, KNOWN_MOTION_TERMS + VIDEO_TERMS):
        raise _without_terms("loss.flow", loss.flow, KNOWN_MOTION_TERMS + VIDEO_TERMS)
    if loss.content > 0 and not in_use(loss, CONTENT_TERMS):
        raise _without_terms("loss.content", loss.content, CONTENT_TERMS)


def _check_batches(where: str, stage: StageConfig, loss: LossConfig) -> None:
    """Every stage has something to train on, and terms for the pairs that it has."""
    if loss.content > 0 and stage.image_batch < 2:  # VICReg's statistics are over the batch
        raise ConfigError(
            f"{where}.image_batch must be at least 2 while loss.content is above 0, got {stage.image_batch}"
        )
    if loss.flow == 0:
        return
    if stage.batch + stage.video_batch < 1:
        raise ConfigError(
            f"{where}: batch + video_batch must be at least 1 while loss.flow is above 0, got 0"
        )
    terms = (KNOWN_MOTION_TERMS if stage.batch else ()) + (VIDEO_TERMS if stage.video_batch else ())
    if not in_use(loss, terms):
        raise ConfigError(
            f"{where}: batch {stage.batch} and video_batch {stage.video_batch} need one of loss."
            f"{', loss.'.join(terms)} above 0, got 0 for all"
        )


def _without_terms(name: str, weight: float, terms: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{name} is {weight}, so one of loss.{', loss.'.join(terms)} must be above 0, got 0 for all"
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is a section, got {value!r}")
        return from_dict(hint, value, where + ".")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(hints) != len(value):
        raise ConfigError(f"{where} must have {len(hints)} values, got {len(value)}")
    return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _read_preset(preset: str) -> dict[str, Any]:
    packaged = resources.files("mcjepa") / "presets" / f"{preset}.toml"
    path = Path(preset)
    if packaged.is_file():
        data = packaged.read_bytes()
    elif path.suffix == ".toml" and path.is_file():
        data = path.read_bytes()
    else:
        raise ConfigError(
            f"preset {preset!r} is neither one of {', '.join(PRESETS)} nor an existing .toml file"
        )
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError(f"{path} is no TOML file: {error}") from error


def _override(tree: dict[str, Any], item: str) -> None:
    name, sep, raw = item.partition("=")
    if not sep:
        raise ConfigError(f"--set wants section.key=value, got {item!r}")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw
    *parents, key = name.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: {parent} is not a section")
    tree[key] = value
