"""The exported models on one or several Triton Inference Servers, over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from mcjepa_server.engines.base import EmbedOutput, FlowOutput, both_ways, from_both_ways
from mcjepa_server.engines.contract import EMBED, FLOW_BIDIRECTIONAL, Contract, flow_model
from mcjepa_server.engines.triton_endpoint import ConnectionLost, Endpoint, EndpointDown
from mcjepa_server.errors import NotReady, Overloaded
from mcjepa_server.observability.metrics import Metrics
from mcjepa_server.observability.timing import seconds_left
from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

logger = logging.getLogger(__name__)
DEFAULT_URL = "127.0.0.1:8001"
NO_LIMIT_S = 60.0  # of a call outside any request


class TritonEngine:
    """Takes the usable endpoints in turn. The contract is that of the first that answered, for good."""

    name = "triton"
    clip_frames = 32  # the fewer calls, the better: a GPU wants work, and the network has a price

    def __init__(
        self, endpoints: Sequence[Endpoint], contract: Contract, probe_interval_s: float, metrics: Metrics
    ) -> None:
        self._endpoints = endpoints
        self._contract = contract
        self._metrics = metrics
        self._turn = 0
        self._interval = probe_interval_s
        self._prober = asyncio.create_task(self._probe())

    @classmethod
    async def connect(cls, urls: Sequence[str], probe_interval_s: float, metrics: Metrics) -> TritonEngine:
        """Raises NotReady, naming every endpoint and what is wrong with it, unless one can be used."""
        endpoints = [Endpoint(url) for url in urls]
        try:
            found = await asyncio.gather(*(endpoint.check(None) for endpoint in endpoints))
            contract = next((contract for contract in found if contract is not None), None)
            if contract is None:
                raise NotReady(_complaint(endpoints))
            # Endpoints that serve other weights than the first are left out.
            await asyncio.gather(*(endpoint.check(contract) for endpoint in endpoints))
            _report(endpoints, metrics)
            return cls(endpoints, contract, probe_interval_s, metrics)
        except BaseException:
            await _close(endpoints)
            raise

    @property
    def contract(self) -> Contract:
        return self._contract

    async def infer_flow(
        self, frames: Uint8Array, backward: bool, embed: bool = True, quality: Quality = FAST
    ) -> FlowOutput:
        if backward and quality != FAST:  # there is no model of both directions
            return from_both_ways(await self.infer_flow(both_ways(frames), False, embed, quality))
        model = FLOW_BIDIRECTIONAL if backward else flow_model(quality)
        names = ["flow", *(["flow_backward"] if backward else []), *(["embedding"] if embed else [])]
        found = dict(zip(names, await self._infer(model, "frames", frames, names), strict=True))
        return FlowOutput(found["flow"], found.get("flow_backward"), found.get("embedding"))

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        (embedding,) = await self._infer(EMBED, "images", images, ["embedding"])
        return EmbedOutput(embedding)

    async def ready(self) -> bool:
        """Looks at every endpoint anew. Raises NotReady with what is wrong if none can be used."""
        await self._check_all()
        if all(endpoint.reason is not None for endpoint in self._endpoints):
            raise NotReady(_complaint(self._endpoints))
        return True

    async def trim_memory(self) -> None:
        """Triton's is its own affair."""

    async def close(self) -> None:
        self._prober.cancel()
        with suppress(asyncio.CancelledError):
            await self._prober
        await _close(self._endpoints)

    async def _infer(self, model: str, name: str, array: Uint8Array, outputs: list[str]) -> list[FloatArray]:
        """Each usable endpoint, and after that once more those that lost the connection, since a restart of
        Triton shows only in the first call after it. A cancelled call is cancelled in Triton, too.
        """
        full: Overloaded | None = None
        lost: list[Endpoint] = []
        for endpoint in chain(self._in_turn(), lost):
            try:
                if endpoint in lost:
                    await endpoint.check(self._contract)
                await endpoint.verify(self._contract)
                return await endpoint.infer(model, name, array, outputs, max(0.001, seconds_left(NO_LIMIT_S)))
            except Overloaded as error:
                full = error
            except EndpointDown as error:
                if isinstance(error, ConnectionLost) and endpoint not in lost:
                    lost.append(endpoint)
                logger.warning("Triton at %s is out of use: %s", endpoint.url, error)
                _report(self._endpoints, self._metrics)
            self._metrics.engine_retries.inc()
        raise full or NotReady(_complaint(self._endpoints), headers={"Retry-After": "1"})

    def _in_turn(self) -> Iterator[Endpoint]:
        """From the next in turn; those that went out of use meanwhile are passed over."""
        self._turn = (self._turn + 1) % len(self._endpoints)
        for endpoint in [*self._endpoints[self._turn :], *self._endpoints[: self._turn]]:
            if endpoint.reason is None:
                yield endpoint

    async def _probe(self) -> None:
        """Takes endpoints that came back into use again, and out of use those that hang."""
        while True:
            await asyncio.sleep(self._interval)
            await self._check_all()

    async def _check_all(self) -> None:
        await asyncio.gather(*(endpoint.check(self._contract) for endpoint in self._endpoints))
        _report(self._endpoints, self._metrics)


def _complaint(endpoints: Sequence[Endpoint]) -> str:
    return "no Triton can be used: " + "; ".join(
        f"{endpoint.url}: {endpoint.reason}" for endpoint in endpoints
    )


def _report(endpoints: Sequence[Endpoint], metrics: Metrics) -> None:
    for endpoint in endpoints:
        metrics.endpoint_up.labels(endpoint.url).set(endpoint.reason is None)


async def _close(endpoints: Sequence[Endpoint]) -> None:
    await asyncio.gather(*(endpoint.close() for endpoint in endpoints))
