"""The flow model behind LitServe, around the same file.

python benchmarks/litserve_server.py MODEL_REPOSITORY THREADS --port PORT
"""

# No annotations of the future: LitServe looks at the class of the argument, not at its name.
from pathlib import Path

import litserve
from fastapi import Request, Response
from peer_model import PeerModel, arguments


class FlowAPI(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, repository: Path, threads: int) -> None:
        super().__init__(api_path="/v1/flow")
        self._arguments = repository, threads

    def setup(self, device: str) -> None:  # in a process of its own
        self.model = PeerModel(*self._arguments)

    def decode_request(self, request: Request) -> list[bytes]:  # the fields of the form
        return [request[name].file.read() for name in ("frame1", "frame2")]

    def predict(self, x: list[bytes]) -> bytes:
        return self.model.flow(*x)

    def encode_response(self, output: bytes) -> Response:
        return Response(output)


if __name__ == "__main__":
    given = arguments(__doc__)
    api = FlowAPI(given.repository, given.threads)
    server = litserve.LitServer(api, accelerator="cpu", timeout=300, healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")
