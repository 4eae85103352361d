"""The formats that replies are offered in."""

from __future__ import annotations

from mcjepa_server.negotiate import Offer

FLO = Offer("flo", "application/x-flo", ("application/octet-stream",))
#: A plain PNG by its type, so Accept cannot tell it from the colour picture.
KITTI = Offer("kitti", "image/png", by_accept=False)
NPY = Offer("npy", "application/x-npy")
NPZ = Offer("npz", "application/x-npz")
PNG = Offer("png", "image/png")
JSON = Offer("json", "application/json")

FLOW = (FLO, KITTI, NPY, NPZ, PNG, JSON)
#: Formats that can hold more than one field.
SEVERAL = (NPZ, JSON)
ANALYZE = (NPZ, JSON)
#: Formats that can hold float16.
HALF = (NPY, NPZ)
EXTENSIONS = {"flo": "flo", "kitti": "png", "npy": "npy", "npz": "npz", "png": "png"}
