"""The joint model: one ConvNeXt pyramid, a flow head and a content head."""

from mcjepa.model.joint import MCJEPA

__all__ = ["MCJEPA"]
