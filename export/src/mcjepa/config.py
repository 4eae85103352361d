"""Configuration: frozen dataclasses, filled from a TOML preset and `--set section.key=value` overrides.

An unknown section or key is an error, so that a misspelt setting never trains the default in silence.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration names an unknown key or gives a value of the wrong type."""


@dataclass(frozen=True)
class EncoderConfig:
    """Six-level ConvNeXt pyramid; level l (1..6) has stride 2**l."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 192, 256)
    depths: tuple[int, ...] = (0, 1, 2, 3, 2, 1)  # ConvNeXt blocks a level
    layer_scale: float = 0.1  # 1e-6 (the usual value) keeps the blocks asleep in short training runs


@dataclass(frozen=True)
class FlowConfig:
    """Coarse-to-fine matching head, strides 32 to 4."""

    match_dim: int = 32  # channels of the normalised matching features
    hidden_dim: int = 32  # channels handed from one level to the next
    radius: int = 4  # correlation radius at strides 32..8, in pixels of the level
    fine_radius: int = 2  # the same at stride 4
    widths: tuple[int, ...] = (88, 64, 48, 48)  # estimator shared by strides 32..8
    fine_widths: tuple[int, ...] = (32, 32, 32)  # slim estimator at stride 4, dilations 1, 2, 4
    temperature: float = 60.0  # initial, on cosine similarities
    max_flow: float = 512.0  # px at full resolution; flow is clipped here at every level


@dataclass(frozen=True)
class ContentConfig:
    """Embedding (pooled last level) and the expander, which exists in training only."""

    expander_dim: int = 768
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
    # on known-motion pairs
    known_motion: float = 1.0
    known_motion_levels: float = 0.15  # the same on every intermediate flow
    # the whole of the flow terms above, and the whole of the content terms below
    flow: float = 1.0
    content: float = 1.0
    # VICReg
    invariance: float = 25.0
    content_variance: float = 25.0
    content_covariance: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    photos: tuple[str, ...] = ()  # image folders or tars: layers of known-motion pairs
    videos: tuple[str, ...] = ()  # video files, frame folders, tars of frame folders
    images: tuple[str, ...] = ()  # image folders or tars: content training
    video_cache: str = "runs/video-cache"
    video_short_side: int = 288  # px; video files are decoded once, to this size
    view_min_area: float = 0.08  # smallest share of an image that a view shows
    workers: int = 1


@dataclass(frozen=True)
class StageConfig:
    """One stage of the flow curriculum."""

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
    clip_norm: float = 1.0  # of the gradients of the flow and the content losses, each on its own
    content_warmup: float = 0.02  # share of the run before flow starts
    bf16: bool = True
    seed: int = 0
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    stages: tuple[StageConfig, ...] = (StageConfig(),)


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load_config(preset: str, overrides: Sequence[str] = ()) -> Config:
    """Read a preset (`nano`, `tiny`, or a path to a TOML file) and apply overrides `section.key=value`.

    Values are TOML (`train.lr=3e-4`, `data.photos=["a.tar"]`); a bare word counts as a string.
    Raises ConfigError for an unknown preset, section or key, or a value of the wrong type.
    """
    tree = _read_preset(preset)
    for item in overrides:
        _override(tree, item)
    return from_dict(Config, tree)


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
        text = packaged.read_text()
    elif path.suffix == ".toml" and path.is_file():
        text = path.read_text()
    else:
        raise ConfigError(f"preset {preset!r} is neither one of nano, tiny nor an existing .toml file")
    return tomllib.loads(text)


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
