"""The router's settings."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from router.admission import DEFAULT_WAIT_S
from router.batching import MAX_COST
from shoal.config import DEFAULT_TRACE_SAMPLE, ProcessConfig, refuse_exposed
from shoal.credentials import Credentials, Tls, read_token
from shoal.errors import ConfigError


class RouterConfig(ProcessConfig):
    """Settings of `python -m router`."""

    role: ClassVar[str] = "router"

    topology_source: Literal["file", "leases"] = Field(
        "file",
        description="who says who serves what: the topology file, or the replicas themselves, by "
        "announcing it again and again",
    )
    topology: Path | None = Field(
        None,
        description="JSON file that says who serves what, for --topology-source file; watched for "
        "changes",
    )
    resolve_s: float = Field(
        5.0,
        gt=0,
        description="seconds between look-ups of names in the topology file: dns:HOST:PORT stands "
        "for every address that HOST has",
    )
    max_queries: int = Field(
        16_384, ge=1, description="queries under way at once; more are refused as overload"
    )
    max_wait_s: float = Field(
        DEFAULT_WAIT_S,
        gt=0,
        le=60,
        description="predicted wait, in seconds, past which queries are refused",
    )
    max_batch_cost: int = Field(
        MAX_COST,
        ge=1,
        le=MAX_COST,
        description="queries x n_probe that travel to a shard in one call",
    )
    max_batch_texts: int = Field(
        256, ge=1, le=1024, description="texts that travel to an encoder in one call"
    )
    inline_hits: int = Field(
        1_024, ge=0, description="queries x k up to which a shard sends text with its hits"
    )
    release_after_s: float = Field(
        10.0, ge=0, description="seconds between a reload's flip and the old version's release"
    )
    check_s: float = Field(1.0, gt=0, description="seconds between checks of a healthy replica")
    recheck_s: float = Field(
        0.2, gt=0, description="seconds between checks of a replica that is not healthy"
    )
    canary_s: float = Field(
        30.0, gt=0, description="seconds between proofs of an encoder by the index's probe texts"
    )
    check_timeout_s: float = Field(
        0.4, gt=0, description="seconds in which a replica must answer a check, or a call meanwhile"
    )
    retry_share: float = Field(
        0.15, ge=0, le=1, description="calls made again, to another replica, as a share of all"
    )
    hedge_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="calls made twice because the first is slower than 95 %, as a share of all",
    )
    min_wait_factor: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the time left for which the last missing shard is waited for once "
        "min_coverage is reached",
    )
    max_wait_factor: float = Field(
        0.5, ge=0, le=1, description="the same for as many missing shards as may be missing"
    )
    live_recall_budget: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of one core a shard that goes to searching answered queries again "
        "exactly, to measure recall; 0 measures none",
    )
    trace_sample: float = Field(
        DEFAULT_TRACE_SAMPLE,
        ge=0,
        le=1,
        description="share of the searches that are traced, with --traces-otlp, where the caller "
        "says nothing of it",
    )
    peer_tls_ca: Path | None = Field(
        None, description="PEM file of who signs the shards' and encoders' certificates; asks TLS"
    )
    peer_tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate that this router shows them"
    )
    peer_tls_key: Path | None = Field(None, description="PEM file of that certificate's key")
    peer_server_name: str = Field(
        "", description="name that their certificates must carry; each one's host without it"
    )
    peer_token_file: Path | None = Field(
        None, description="file with the token that this router shows shards and encoders"
    )

    http_port: int | None = Field(
        None, ge=0, le=65535, description="port of the console and POST /retrieve; none without it"
    )
    http_host: str = Field("127.0.0.1", description="address that the HTTP port listens on")
    http_names: str = Field(
        "",
        description="host names, with commas, by which callers may reach the HTTP port; addresses, "
        "localhost and this machine's name always may",
    )

    @property
    def traced_share(self) -> float:
        """As `trace_sample`."""
        return self.trace_sample

    @cached_property
    def peer_credentials(self) -> Credentials:
        """What shards and encoders are asked with; read once.

        Raises:
            ConfigError: a file that can't be read, or TLS settings without `peer_tls_ca`, which
                would be plaintext.
        """
        for name in ("peer_tls_certificate", "peer_tls_key", "peer_server_name"):
            if getattr(self, name) and self.peer_tls_ca is None:
                raise ConfigError(
                    f"{name} is for TLS to shards and encoders, which peer_tls_ca asks for; "
                    "give that as well"
                )
        tls = None
        if self.peer_tls_ca is not None:
            tls = Tls(
                ca=self.peer_tls_ca,
                certificate=self.peer_tls_certificate,
                key=self.peer_tls_key,
                server_name=self.peer_server_name,
            )
        token = read_token(self.peer_token_file) if self.peer_token_file else ""
        return Credentials(tls=tls, token=token)


def refuse_exposed_http(config: RouterConfig) -> None:
    """As `refuse_exposed`, for the HTTP port, where there is to be one.

    Raises:
        ConfigError: others can reach it, and it has neither TLS with tokens nor `insecure`.
    """
    if config.http_port is not None:
        refuse_exposed(config.model_copy(update={"host": config.http_host}))
