"""Known-motion pairs of scenes in three dimensions: see `render_pairs`."""

from mcjepa.data.rendered.pairs import render_pairs

__all__ = ["render_pairs"]
