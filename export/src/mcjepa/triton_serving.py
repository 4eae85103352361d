"""How Triton serves the models: batching, queue, instances, warm-up. Needs no torch.

Triton batches requests of equal shape only, so flow is served best at few sizes: the gateway can pad to the
buckets of its setting `shape_buckets`, and each of them is warmed up before the model counts as ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2

#: Padded sizes (height, width) px that are warmed up: common videos at 1024 px and below, also upright.
BUCKETS = ((384, 640), (448, 1024), (576, 1024), (1024, 576), (512, 640), (768, 1024))


@dataclass(frozen=True)
class Serving:
    """Settings of Triton's scheduler, the same for the three models.

    kind: KIND_AUTO is every GPU that Triton sees, or else the CPU. queue_delay_us: how long a request waits
    for others of its shape; far below what a pair takes. queue_timeout_us: a longer wait is refused; requests
    may ask for less. intra_op_threads: of one inference on the CPU, 0 is one per core.
    """

    kind: str = "KIND_AUTO"
    instances: int = 1
    intra_op_threads: int = 0
    queue_delay_us: int = 2_000
    queue_size: int = 128
    queue_timeout_us: int = 60_000_000
    buckets: tuple[tuple[int, int], ...] = BUCKETS


def apply_serving(message: model_config_pb2.ModelConfig, serving: Serving) -> None:
    """Adds instances, batching, ONNX Runtime's options and warm-up to the configuration of a model."""
    message.instance_group.add(
        kind=model_config_pb2.ModelInstanceGroup.Kind.Value(serving.kind), count=serving.instances
    )
    batching = message.dynamic_batching
    batching.max_queue_delay_microseconds = serving.queue_delay_us
    policy = batching.default_queue_policy
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = serving.queue_timeout_us
    policy.allow_timeout_override = True
    policy.max_queue_size = serving.queue_size
    for key, value in runtime_options(serving).items():
        message.parameters[key].string_value = value
    for name, dims in warmup_shapes(message, serving):
        _add_warmup(message, name, dims)


def runtime_options(serving: Serving) -> dict[str, str]:
    """Parameters of Triton's ONNX Runtime backend.

    The search for a cuDNN algorithm is set here and not under the accelerator `cuda`, because the backend's
    default, the exhaustive search (seconds for every new shape), overrules what stands there.
    """
    return {
        "intra_op_thread_count": str(serving.intra_op_threads),
        "inter_op_thread_count": "1",
        "cudnn_conv_algo_search": "1",  # HEURISTIC
        "enable_mem_pattern": "0",  # kept for every shape ever seen: a quarter less memory without
    }


def warmup_shapes(message: model_config_pb2.ModelConfig, serving: Serving) -> list[tuple[str, list[int]]]:
    """Name and input sizes, without the batch, of each sample."""
    given = message.input[0]
    if given.name != "frames":
        return [("images", list(given.dims))]
    return [(f"frames_{w}x{h}", [2, h, w, 3]) for h, w in serving.buckets]


def _add_warmup(message: model_config_pb2.ModelConfig, name: str, dims: list[int]) -> None:
    sample = message.model_warmup.add(name=name, batch_size=1)
    given = sample.inputs[message.input[0].name]
    given.data_type = message.input[0].data_type
    given.dims.extend(dims)
    given.random_data = True
