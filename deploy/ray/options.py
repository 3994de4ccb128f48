"""What a cluster on Ray is: one frozen model, from flags or from the `args` of a Serve config.

Rule: Serve restarts every replica when the `args` change, and none when `deployments:` overrides
`num_replicas`; so `shoal up` leaves the counts at their defaults here and passes them beside. Pure;
knows no Ray.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy.index_place import IndexPlace
from deploy.traces import Traces
from shoal.credentials import Credentials, Tls, is_loopback
from shoal.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1024, allow_inf_nan=False)]
"""CPUs or GPUs of one replica, as Ray counts them."""


class RayOptions(BaseModel):
    """One cluster. Paths must mean the same on every node that runs a replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("default", pattern=r"^[a-z0-9_-]{1,64}$", description="the application's")
    index: str = Field(min_length=1, description="the index's folder, or its URL")
    cache_dir: Path | None = Field(None, description="where each node copies a URL's files to")
    replicas: int = Field(1, ge=1, description="replicas of each shard")
    encoders: int = Field(1, ge=1, description="replicas of the encoder")
    routers: int = Field(1, ge=1, description="replicas of the router")
    port: int = Field(
        0, ge=0, le=65535, description="the routers' port, one router a node; 0 takes free ones"
    )
    host: str | None = Field(
        None, description="where processes listen; each node's address without it"
    )
    device: str | None = Field(None, pattern=r"^(auto|cpu|cuda)$", description="auto without it")
    model: str | None = Field(None, description="the encoder's model; the index's own without it")
    shard_cpus: Share = Field(1, description="CPUs of a shard's replica")
    encoder_cpus: Share = Field(1, description="CPUs of an encoder")
    router_cpus: Share = Field(1, description="CPUs of a router")
    shard_gpus: Share = Field(0, description="GPUs of a shard's replica; a share under 1 is one")
    encoder_gpus: Share = Field(0, description="GPUs of an encoder")
    gpu_memory_bytes: int | None = Field(
        None, ge=1, description="memory of one GPU, from which shard_gpus is planned"
    )
    insecure: bool = Field(default=False, description="plaintext where other machines reach it")
    tls_certificate: Path | None = Field(None, description="PEM file that every process serves")
    tls_key: Path | None = Field(None, description="PEM file of its key")
    tls_client_ca: Path | None = Field(None, description="PEM file of who signs callers'")
    tls_ca: Path | None = Field(
        None, description="PEM file of who signed tls_certificate; itself without it"
    )
    tls_server_name: str = Field(
        "", description="a name that every node's certificate carries; its address without it"
    )
    tokens: Path | None = Field(None, description="YAML file of who may call the routers")
    live_recall_budget: float | None = Field(
        None,
        ge=0,
        le=1,
        description="each router's share of one core a shard for measuring recall; its own default "
        "without it",
    )
    traces_otlp: str = Field(
        "", description="HOST:PORT of an OpenTelemetry collector that every node reaches"
    )
    trace_sample: float | None = Field(
        None, ge=0, le=1, description="share of the searches that are traced; 0.01 without it"
    )
    traces_ca: Path | None = Field(None, description="PEM file of who signs the collector's")
    grace_s: float = Field(10.0, ge=0, description="seconds that calls get to end at a stop")
    program: str = Field("", description="any text; another one rolls every replica")

    @model_validator(mode="after")
    def _doors_are_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key come together; one of them is missing")
        for name in ("tls_client_ca", "tls_ca", "tls_server_name"):
            if getattr(self, name) and self.tls_certificate is None:
                raise ValueError(f"{name} is for TLS: give tls_certificate and tls_key as well")
        if self.gpu_memory_bytes is not None and self.shard_gpus:
            raise ValueError("give gpu_memory_bytes or shard_gpus, one of them")
        _ = self.traces  # refuses its own settings
        return self

    @property
    def closed(self) -> bool:
        """Whether the operator closed the door; our own processes then share a token."""
        return self.tls_certificate is not None or self.tokens is not None

    @property
    def traces(self) -> Traces:
        """Where traces go."""
        return Traces(otlp=self.traces_otlp, sample=self.trace_sample, ca=self.traces_ca)

    def credentials(self, token: str) -> Credentials:
        """What this cluster's processes are asked with; `token` is the one that they share."""
        if self.tls_certificate is None:
            return Credentials(token=token)
        tls = Tls(
            ca=self.tls_ca or self.tls_certificate,
            certificate=self.tls_certificate,
            key=self.tls_key,
            server_name=self.tls_server_name,
        )
        return Credentials(tls=tls, token=token)

    @property
    def place(self) -> IndexPlace:
        """Where the index lies on the node that asks."""
        return IndexPlace.of(self.index, self.cache_dir)

    @property
    def arguments(self) -> dict[str, Any]:
        """As the `args` of a Serve config: what differs from the defaults, counts left out."""
        counts = {"replicas", "encoders", "routers"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=counts)


def ray_options(values: dict[str, Any]) -> RayOptions:
    """The options of these values.

    Raises:
        ConfigError: naming what is wrong, in one line.
    """
    try:
        return RayOptions.model_validate(values)
    except ValidationError as failure:
        fault = failure.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        why = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--on ray: {name}: {why}" if name else f"--on ray: {why}") from failure


def check_doors(options: RayOptions, hosts: list[str]) -> None:
    """Refuses a cluster whose nodes others reach and whose doors stand open.

    `hosts` are the addresses that Ray gives its nodes; a replica listens on its node's.

    Raises:
        ConfigError: what is open, and what to give.
    """
    if options.host is not None and is_loopback(options.host) and len(set(hosts)) > 1:
        raise ConfigError(
            f"processes on --host {options.host} don't reach each other over {len(set(hosts))} "
            "nodes; leave out --host"
        )
    exposed = [h for h in ([options.host] if options.host else hosts) if not is_loopback(h)]
    if not exposed:
        return
    if options.tokens is not None and options.tls_certificate is None:
        raise ConfigError(
            f"address {exposed[0]} can be reached by other machines, and tokens would cross the "
            "network in plaintext; give --tls-certificate and --tls-key, files that every node has"
        )
    if options.insecure or (options.tls_certificate is not None and options.tokens is not None):
        return
    doors = (("in plaintext", options.tls_certificate), ("without tokens", options.tokens))
    lacks = [what for what, given in doors if given is None]
    raise ConfigError(
        f"address {exposed[0]} can be reached by other machines, {' and '.join(lacks)}; give "
        "--tls-certificate, --tls-key and --tokens (files that every node has), or say --insecure "
        "if the network is yours alone; a Ray cluster of one machine may serve itself with "
        "--host 127.0.0.1"
    )
