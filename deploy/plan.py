"""Which processes a cluster on one machine needs, and how each is started. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.gpus import gpu_for
from deploy.state import ClusterPaths
from deploy.traces import Traces
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.contract import EncoderContract

Role = Literal["encoder", "shard", "router"]
MODULES: dict[Role, str] = {
    "encoder": "encoder_service",
    "shard": "shard_server",
    "router": "router",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What the operator asks for; `model` None is the index's own, `device` None is "auto", and
    `live_recall_budget` None the router's default.

    Where the index lies at `index_url`, `index_dir` is the folder of its copy on this machine.
    """

    name: str
    index_dir: Path
    index_url: str = ""
    replicas: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    insecure: bool = False
    device: str | None = None
    model: str | None = None
    grace_s: float = 10.0
    start_timeout_s: float = 600.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    live_recall_budget: float | None = None
    traces: Traces = field(default_factory=Traces)
    http_port: int | None = None
    http_host: str = "127.0.0.1"

    @property
    def closed(self) -> bool:
        """Whether the operator closed the door; our own processes then share a token."""
        return self.tls_certificate is not None or self.tokens is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What the launcher needs to know of an index; `encoder_model` None: one of bare vectors."""

    name: str
    version: int
    n_shards: int
    encoder_model: str | None
    encoder: "EncoderContract | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to start; the launcher adds its ports, address file and parent."""

    name: str
    role: Role
    shard: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    port: int = 0
    http_port: int | None = None


def plan_backends(
    options: UpOptions,
    index: IndexFacts,
    n_cores: int,
    internal_token: Path | None = None,
    gpus: Sequence[str] = (),
) -> tuple[ProcessSpec, ...]:
    """The encoder, where the index has one, and every replica of every shard.

    The encoder may use all cores: a query is encoded before it is searched. The shards of one
    machine are searched at once, so they share the cores; and they take its `gpus` in turn. They
    listen on loopback alone, in plaintext, and with `internal_token` they answer nobody who doesn't
    know it.

    Raises:
        ConfigError: a model is given for an index of bare vectors.
    """
    specs = []
    device = ("--device", options.device) if options.device else ()
    door = options.traces.arguments
    if internal_token:
        door = ("--internal-token-file", str(internal_token), *door)
    if options.model and index.encoder_model is None:
        raise ConfigError(f"index {index.name!r} is one of bare vectors; leave out --model")
    model = options.model or index.encoder_model
    if model:
        specs.append(
            ProcessSpec(
                name="encoder",
                role="encoder",
                shard=-1,
                arguments=("--model", model, *device, *door),
                environment=_threads(n_cores),
            )
        )
    n_processes = index.n_shards * options.replicas
    where: tuple[str, ...] = ("--index", options.index_url or str(options.index_dir))
    if options.index_url:
        where += ("--cache-dir", str(options.index_dir.parent))
    where += ("--version", str(index.version))
    specs += [
        ProcessSpec(
            name=f"shard-{shard}{_letter(replica)}",
            role="shard",
            shard=shard,
            arguments=(*where, "--shard", str(shard), *device, *door),
            environment={
                **_threads(max(1, n_cores // n_processes)),
                **gpu_for(options.device, gpus, shard * options.replicas + replica),
            },
        )
        for shard in range(index.n_shards)
        for replica in range(options.replicas)
    ]
    return tuple(specs)


def plan_router(options: UpOptions, paths: ClusterPaths) -> ProcessSpec:
    """The router, on the operator's port."""
    exposed = ("--insecure",) if options.insecure else ()
    door: list[str] = []
    for flag, path in (
        ("--tls-certificate", options.tls_certificate),
        ("--tls-key", options.tls_key),
        ("--tls-client-ca", options.tls_client_ca),
        ("--tokens", options.tokens),
        ("--peer-token-file", paths.internal_token if options.closed else None),
        # where callers need a token, this user's own commands have this one
        ("--internal-token-file", paths.internal_token if options.tokens else None),
    ):
        door += (flag, str(path)) if path else ()
    measuring: tuple[str, ...] = ()
    if options.live_recall_budget is not None:
        measuring = ("--live-recall-budget", str(options.live_recall_budget))
    if options.http_port is not None:
        door += ("--http-host", options.http_host)
    return ProcessSpec(
        name="router",
        role="router",
        shard=-1,
        arguments=(
            "--topology",
            str(paths.topology),
            "--host",
            options.host,
            *exposed,
            *door,
            *measuring,
            *options.traces.router_arguments,
        ),
        environment=_threads(1),
        port=options.port,
        http_port=options.http_port,
    )


def topology_of(
    index: IndexFacts, specs: Sequence[ProcessSpec], addresses: Sequence[str]
) -> dict[str, Any]:
    """The topology file's content: who serves what, `addresses[i]` being that of `specs[i]`."""
    shards: list[list[str]] = [[] for _ in range(index.n_shards)]
    encoders: list[str] = []
    for spec, address in zip(specs, addresses, strict=True):
        (encoders if spec.role == "encoder" else shards[spec.shard]).append(address)
    return {
        "format": 1,
        "indexes": [{"name": index.name, "version": index.version, "shards": shards}],
        "encoders": encoders,
    }


def restart_delay_s(n_quick_deaths: int) -> float:
    """Seconds before a crashed process is started again: 0.2, doubling, at most 10.

    Args:
        n_quick_deaths: deaths in a row, this one included, of which none came after 30 s of life.
    """
    return float(min(10.0, 0.2 * 2 ** min(n_quick_deaths - 1, 10)))


def _threads(n_threads: int) -> dict[str, str]:
    # a waiting OpenMP thread that spins takes the core from the process that has work
    return {"OMP_NUM_THREADS": str(n_threads), "OMP_WAIT_POLICY": "PASSIVE"}


def _letter(replica: int) -> str:
    return chr(ord("a") + replica) if replica < 26 else f"-{replica}"
