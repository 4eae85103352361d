"""What crosses the wire as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mcjepa_server.types import Quality


class ErrorBody(BaseModel):
    """The member that OpenAI clients read."""

    message: str
    type: str
    code: str
    param: str | None


class Problem(BaseModel):
    """RFC 9457 problem details; every error reply has this body."""

    type: str = Field(examples=["urn:mcjepa:problem:undecodable_image"])
    title: str = Field(examples=["Undecodable image"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["frame2 is empty"])
    instance: str = Field(examples=["/v1/flow"])
    request_id: str | None
    error: ErrorBody


class ImageItem(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="Data URI or bare base64 of an image file.")


_ITEM = "an image is a data URI, base64 text, or {'image': either of these}"
_TOKENS = (
    "these are token ids; this model embeds images and takes no text. Have the client send its input as it "
    "is (LangChain: check_embedding_ctx_length=False)"
)

EncodingFormat = Literal["float", "base64"]


class EmbeddingRequest(BaseModel):
    """The request of OpenAI's embeddings endpoint, with images in place of texts.

    null means the same as leaving a member out. Other members than these are refused, as OpenAI does.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "mcjepa_embed", "input": ["data:image/png;base64,iVBORw0KGgo..."]}]
        },
    )

    input: str | ImageItem | Annotated[list[str | ImageItem], Field(min_length=1)] = Field(
        description="One image or a list: a data URI, bare base64, or an object {image: ...}. No URLs."
    )
    model: str | None = Field(None, description="An id of /v1/models that gives embeddings; may be left out.")
    encoding_format: EncodingFormat | None = Field(
        "float", description="base64 is little-endian float32, as in OpenAI's API."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep this many leading numbers, then normalise again."
    )
    modality: Literal["image"] | None = Field(None, description="Accepted for clients of other servers.")
    input_type: str | None = Field(None, description="Accepted for clients of other servers, and ignored.")
    user: str | None = Field(None, description="Accepted for OpenAI clients, and ignored.")

    @field_validator("input", mode="before")
    @classmethod
    def _readable_errors(cls, value: Any) -> Any:
        """Say what is wrong with one item, where a union would list every type it is not."""
        items = value if isinstance(value, list) else [value]
        if not items:
            raise ValueError("the list is empty; send at least one image")
        if all(isinstance(item, int | list) for item in items):
            raise ValueError(_TOKENS)
        for index, item in enumerate(items):
            if not isinstance(item, str | dict):
                raise ValueError(f"item {index} is of type {type(item).__name__}; {_ITEM}")
            if isinstance(item, dict) and (item.keys() != {"image"} or not isinstance(item["image"], str)):
                raise ValueError(f"item {index} is not {{'image': text}}; {_ITEM}")
        return value

    @property
    def items(self) -> list[str]:
        items = self.input if isinstance(self.input, list) else [self.input]
        return [item.image if isinstance(item, ImageItem) else item for item in items]


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Of unit length; base64 text if that was asked for.")


class Usage(BaseModel):
    """Images have no tokens: both numbers count images."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class VectorStats(BaseModel):
    """Of one flow field, in px of the frames that were sent."""

    mean: tuple[float, float] = Field(description="Mean (dx, dy).")
    mean_magnitude: float
    median_magnitude: float
    max_magnitude: float


class PairSummary(BaseModel):
    flow: VectorStats
    flow_backward: VectorStats | None = None
    occluded_fraction: float | None = None


class Meta(BaseModel):
    """How a reply came about. Also inside every npz, as JSON text in the array ``meta``."""

    model_version: str
    weights_sha256: str
    frames: int
    width: int
    height: int
    computed_width: int = Field(description="Width the flow was computed at, before scaling back.")
    computed_height: int
    direction: Literal["forward", "backward", "both"]
    occlusion: bool
    quality: Quality


class FlowSummary(PairSummary):
    meta: Meta


class AnalyzeSummary(BaseModel):
    meta: Meta
    pairs: list[PairSummary]
    embeddings: list[list[float]] = Field(description="One of unit length for each frame.")


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "mcjepa"
    version: str
    endpoints: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class QualityInfo(BaseModel):
    """A quality of flow; its figures are null where they were not measured."""

    name: Quality
    error_px: float | None = Field(description="Geometric mean of end-point errors over benchmarks.")
    relative_cost: float | None = Field(description="Time over that of OpenCV's DIS medium, on a CPU.")


class ModelInfo(BaseModel):
    version: str
    weights_sha256: str
    contract_version: str
    stride: int
    smallest_side: int = Field(description="px; frames with a shorter side are computed larger.")
    embedding_size: int
    embed_image_size: int
    training_summary: str
    license: str
    qualities: list[QualityInfo] = Field(description="What `quality` of a request may be.")
    default_quality: Quality = Field(description="That of a request which leaves it open.")


class Limits(BaseModel):
    """What a request may ask for; errors name these fields."""

    max_body_bytes: int
    max_image_pixels: int
    max_request_pixels: int
    max_frames: int
    max_images: int
    min_side: int
    max_side: int
    max_compute_pixels: int
    max_in_flight: int
    max_concurrency: int
    max_queue: int
    max_queue_pixels: int
    max_queue_wait_s: float
    max_concurrency_per_key: int
    rate_limit_per_minute: int = Field(description="Of each API key; 0 is no limit.")
    max_connections: int
    max_header_bytes: int
    max_buffered_bytes: int
    max_reply_bytes: int = Field(description="Of large replies, and of the flows they are made of.")
    max_parts: int
    max_part_headers: int
    max_part_header_bytes: int = Field(description="Of one header line of a part.")
    decode_processes: int = Field(description="Images decoded at once; 0: as many as there are cores.")
    decode_timeout_s: float = Field(description="Of one image; 0 where decode_processes is 0: no limit.")
    decode_memory_bytes: int = Field(description="Of address space of a decoder; 0 likewise.")
    request_timeout_s: float
    body_timeout_s: float
    header_timeout_s: float
    write_timeout_s: float = Field(description="To fall behind reading a reply at 64 KiB/s.")


class Formats(BaseModel):
    image_input: list[str]
    flow: list[str]
    analyze: list[str]
    embedding: list[str]


class Info(BaseModel):
    name: str = "mcjepa-server"
    version: str
    engine: str | None = Field(description="What runs the models; null while nothing is loaded.")
    ready: bool
    reason: str | None = Field(description="Why the server is not ready.")
    model: ModelInfo | None
    limits: Limits
    formats: Formats


class Health(BaseModel):
    status: Literal["ok", "ready"]
