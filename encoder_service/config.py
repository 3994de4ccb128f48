"""What one encoder process is told: which model, where it runs, how much it takes on."""

from typing import ClassVar, Literal

from pydantic import Field

from encoder_service.admission import DEFAULT_WAIT_S
from shoal.config import ProcessConfig


class EncoderConfig(ProcessConfig):
    """Serves one dual encoder."""

    role: ClassVar[str] = "encoder"

    model: str = Field(
        min_length=1,
        description="a model's folder, an installed package that carries one, a hub name, or "
        "QUESTION,PASSAGE for a pair of them",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one",
    )
    backend: Literal["auto", "onnxruntime", "torch"] = Field(
        "auto", description="what runs the model; auto takes onnxruntime on a CPU where it can"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="number type; auto is float32 on a CPU, float16 on a GPU"
    )
    query_prompt: str | None = Field(
        None, description="text put before every question; the model's own without it"
    )
    passage_prompt: str | None = Field(
        None, description="text put before every passage; the model's own without it"
    )
    n_threads: int = Field(
        0, ge=0, le=1024, description="threads of a forward pass; 0: OMP_NUM_THREADS or all cores"
    )
    max_batch_tokens: int = Field(
        0, ge=0, description="padded tokens a batch, at most; 0: what suits the device"
    )
    max_queued_texts: int = Field(
        8192, ge=2048, description="texts that may wait; more are refused (bulk at three quarters)"
    )
    max_wait_s: float = Field(
        DEFAULT_WAIT_S,
        gt=0,
        le=60,
        description="predicted wait, in seconds, past which questions are refused",
    )
    cache_entries: int = Field(
        4096, ge=0, description="question vectors to keep for questions that come again; 0: none"
    )
