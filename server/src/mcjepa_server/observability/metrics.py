"""Prometheus metrics. One registry for each app, so that several apps can live in one process."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from mcjepa_server.observability.timing import Timings

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARES = (0, 0.05, 0.1, 0.25, 0.5, 1, 2, 4)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Every metric of the gateway."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "mcjepa_requests", "Replies.", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "mcjepa_request_seconds", "Whole requests.", ["route"], registry=registry, buckets=_SECONDS
        )
        self.failures = Counter("mcjepa_request_failures", "Error replies.", ["code"], registry=registry)
        self.stage_seconds = Histogram(
            "mcjepa_stage_seconds",
            "Stages of requests: decode, queue, inference, encode.",
            ["stage"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.batch_size = Histogram(
            "mcjepa_batch_size", "Frames or images in an engine call.", registry=registry, buckets=_SIZES
        )
        self.in_flight = Gauge("mcjepa_requests_in_flight", "Requests inside.", registry=registry)
        self.queue_depth = Gauge(
            "mcjepa_queue_depth", "Requests that wait for the engine.", registry=registry
        )
        self.queue_pixels = Gauge(
            "mcjepa_queue_pixels", "Pixels to compute of all requests inside.", registry=registry
        )
        self.decoder_failures = Counter(
            "mcjepa_decoder_failures", "Decoder processes that died or hung.", registry=registry
        )
        self.padding = Histogram(
            "mcjepa_padding_overhead",
            "Padded pixels beyond those of the frames, as a share, of each request for flow.",
            registry=registry,
            buckets=_SHARES,
        )
        self.shapes = Counter(
            "mcjepa_flow_shapes", "Requests for flow by shape bucket.", ["bucket"], registry=registry
        )
        self.endpoint_up = Gauge(
            "mcjepa_triton_endpoint_up",
            "1 if this Triton can be used.",
            ["endpoint"],
            registry=registry,
        )
        self.engine_retries = Counter(
            "mcjepa_triton_failed_calls",
            "Calls that a Triton refused or lost; made again on another one where there is one.",
            registry=registry,
        )
        self.build = Gauge(
            "mcjepa_build_info",
            "1, with what is running as labels.",
            ["version", "engine", "model_version", "weights_sha256"],
            registry=registry,
        )
        ProcessCollector(registry=registry)  # memory, descriptors, CPU time
        self.ready = Gauge("mcjepa_ready", "1 if /readyz answers 200.", registry=registry)

    def observe_padding(
        self, padded: tuple[int, int], scaled: tuple[int, int], buckets: Collection[tuple[int, int]]
    ) -> None:
        """Count (width, height) px that are computed, and what they have beside those of the frame."""
        self.padding.observe(padded[0] * padded[1] / (scaled[0] * scaled[1]) - 1)
        self.shapes.labels("{}x{}".format(*padded) if padded in buckets else "other").inc()

    def observe_stages(self, timings: Timings) -> None:
        for stage, seconds in timings.seconds.items():
            self.stage_seconds.labels(stage).observe(seconds)
