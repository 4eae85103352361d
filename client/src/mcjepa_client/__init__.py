"""Python SDK of the mcjepa server: dense optical flow and image embeddings over HTTP.

from mcjepa_client import Client

with Client("http://127.0.0.1:8000") as client:
    result = client.flow("frame1.png", "frame2.png")
    result.save("flow.flo")

The public names are those of ``__init__.pyi``. What they come from is imported when one is first used (SPEC 1
of Scientific Python): who reads a flow file does not wait for what speaks HTTP.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
