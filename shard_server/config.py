"""What one shard process is told: which shard of which version, on which device."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from shoal.config import ProcessConfig


class ShardConfig(ProcessConfig):
    """Serves one shard of one version of an index."""

    role: ClassVar[str] = "shard"

    index: Annotated[str, BeforeValidator(str)] = Field(
        description="folder of the index, or a URL such as s3://BUCKET/PATH"
    )
    cache_dir: Path | None = Field(
        None, description="where a URL's files are copied to; ~/.cache/shoal/indexes without it"
    )
    shard: int = Field(ge=0, description="number of the shard, from 0")
    version: int | None = Field(None, ge=1, description="version to serve; CURRENT's without it")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda or cuda:N; auto takes a GPU where the index allows it",
    )
    max_queued: int = Field(
        64, ge=1, description="calls that may wait for the search thread; more are refused"
    )
    max_wait_s: float = Field(
        1.0, gt=0, le=60, description="predicted wait, in seconds, past which calls are refused"
    )
    gpu_temp_mib: int = Field(
        1024, ge=64, description="GPU memory for the intermediate results of searches, in MiB"
    )
    verify: bool = Field(
        default=True,
        description="hash every file before reading it; without it only its size is checked",
    )
