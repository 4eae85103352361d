"""One Triton: its client, whether it may be used, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import InferInput, InferRequestedOutput, aio
from tritonclient.utils import InferenceServerException

from mcjepa_server.engines.contract import (
    MODEL_NAMES,
    Contract,
    combine,
    contract_of_config,
    flow_model,
    same_contract,
)
from mcjepa_server.engines.triton_signatures import check_tensors
from mcjepa_server.errors import ApiError, ContractError, DeadlineExceeded, EngineError, Overloaded
from mcjepa_server.observability import tracing
from mcjepa_server.types import BETTER, FloatArray, Uint8Array

PROBE_TIMEOUT_S = 5.0

#: gRPC's own pause between two tries to connect grows to two minutes; a Triton that is back is wanted sooner.
#: No keepalive: Triton closes connections that ping more often than its own, hidden limit.
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # What gRPC repeats by itself may reach a server whose contract nobody has checked.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A channel of its own, so that its state tells of this endpoint's connection alone.
    ("grpc.use_local_subchannel_pool", 1),
]


class EndpointDown(Exception):
    """This Triton cannot answer; another one may. The message says why."""


class ConnectionLost(EndpointDown):
    """During the call, or before it and nobody had noticed: this Triton may be back already."""


class Endpoint:
    """Usable (``reason`` is None) after a check found the expected contract on the connection now in use."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reason: str | None = "not checked yet"
        self._client: Any = aio.InferenceServerClient(url, channel_args=CHANNEL)
        self._checking = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """False after every loss of the connection: whoever answers next may be another server."""
        state = self._client._channel.get_state()  # the wrapper hides it, and offers nothing like it
        return bool(state is grpc.ChannelConnectivity.READY)

    async def check(self, expected: Contract | None) -> Contract | None:
        """Asks for readiness and the contract, and sets ``reason``; the contract if it may be used."""
        async with self._checking:
            return await self._check(expected)

    async def verify(self, expected: Contract) -> None:
        """Checks again after a lost connection. Raises EndpointDown if this Triton may not be used."""
        if self.reason is None and not self.connected:
            async with self._checking:
                if not self.connected:  # nobody else has checked meanwhile
                    await self._check(expected)
        if self.reason is not None:
            raise EndpointDown(self.reason)

    async def infer(
        self, model: str, name: str, array: Uint8Array, outputs: Sequence[str], timeout: float
    ) -> list[FloatArray]:
        """One inference. Raises EndpointDown where another Triton may succeed, else one of our errors."""
        tensor = InferInput(name, list(array.shape), "UINT8")
        tensor.set_data_from_numpy(array)
        try:
            result = await self._client.infer(
                model,
                [tensor],
                outputs=[InferRequestedOutput(output) for output in outputs],
                timeout=int(timeout * 1e6),  # µs that it may wait in Triton's queue
                client_timeout=timeout,
                headers=tracing.outgoing(),  # gRPC metadata, where Triton looks for traceparent
            )
        except InferenceServerException as error:
            raise self._translate(model, error) from error
        return [_output(result, model, output) for output in outputs]

    async def close(self) -> None:
        await self._client.close()

    async def _check(self, expected: Contract | None) -> Contract | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                contract = await self._read_contract()
            if expected is not None:
                same_contract(contract, expected)
        except TimeoutError:
            self.reason = f"no answer within {PROBE_TIMEOUT_S:g} s"
        except (InferenceServerException, EndpointDown, ContractError) as error:
            self.reason = _message(error)
        else:
            self.reason = None
            return contract
        return None

    async def _read_contract(self) -> Contract:
        contracts = {}
        for name in (*MODEL_NAMES, *map(flow_model, BETTER)):
            if not await self._client.is_model_ready(name):
                if name not in MODEL_NAMES:
                    continue
                raise EndpointDown(f"the model {name} is not ready")
            config = (await self._client.get_model_config(name)).config
            contracts[name] = contract_of_config(config, name)
            check_tensors(config, contracts[name])
        return combine(contracts)

    def _translate(self, model: str, error: InferenceServerException) -> ApiError | EndpointDown:
        """Triton's status to ours. What may be different on another Triton puts this one out of use."""
        status, message = str(error.status()).removeprefix("StatusCode."), _message(error)
        if status == "UNAVAILABLE" and "maximum queue size" in message:
            return Overloaded(f"Triton's queue for {model} is full", headers={"Retry-After": "1"})
        if status == "DEADLINE_EXCEEDED" or "timeout expired" in message:
            return DeadlineExceeded(f"{model} did not finish in Triton before the deadline")
        if status in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED"):
            self.reason = message
            return (ConnectionLost if status == "UNAVAILABLE" else EndpointDown)(message)
        return EngineError(f"{model} failed in Triton ({status.lower()})")


def _message(error: Exception) -> str:
    text = error.message() if isinstance(error, InferenceServerException) else str(error)
    return " ".join(str(text).split())[:300]


def _output(result: Any, model: str, name: str) -> FloatArray:
    array: FloatArray | None = result.as_numpy(name)
    if array is None:
        raise EngineError(f"{model} answered without {name!r}")
    return array
