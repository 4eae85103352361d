"""Qualities: how much one set of weights computes for a flow.

Every quality goes through strides 32, 16 and 8, and through stride 8 again. The better ones then enlarge the
frames: stride 8 of those is finer than stride 8 of the frames, and the weights that match at the one match
at the other. Nothing is trained for it (decision 0049).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """passes: at stride 8; detail_passes: at stride 8 of the frames enlarged `detail_scale` times, then."""

    name: str
    passes: int
    detail_passes: int = 0
    detail_scale: float = 1.0


TRAINED = Quality("trained", passes=1)  # what the losses see unless the configuration says otherwise
FAST = Quality("fast", passes=2)
BALANCED = Quality("balanced", passes=2, detail_passes=1, detail_scale=1.5)
BEST = Quality("best", passes=3, detail_passes=2, detail_scale=2.0)
QUALITIES = (FAST, BALANCED, BEST)


def quality_named(name: str) -> Quality:
    """Return the quality of that name. Raises ValueError naming those there are."""
    for quality in QUALITIES:
        if quality.name == name:
            return quality
    raise ValueError(f"quality is {name!r}, expected one of {', '.join(q.name for q in QUALITIES)}")


def flow_name(quality: Quality) -> str:
    """Return the name of the model of a quality."""
    return "mcjepa_flow" if quality is FAST else f"mcjepa_flow_{quality.name}"


def details_name(quality: Quality) -> str:
    """Return the name of the part that gives the details of a quality that has detail passes."""
    return f"details_{quality.name}"


def match_name(quality: Quality) -> str:
    """Return the name of the part that matches in a quality."""
    return "match" if quality is FAST else f"match_{quality.name}"
