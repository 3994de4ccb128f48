"""Which deployments a cluster on Ray has, and how each one's child process is started. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.gpus import VISIBLE
from deploy.plan import IndexFacts, ProcessSpec
from deploy.ray.options import RayOptions
from deploy.ray.registry import Part
from shoal.errors import ConfigError

HEALTH_S = 2.0
"""Seconds between Serve's health checks; a dead actor is seen by the next one."""
_MARGIN_S = 10.0
"""What a stop takes beside its calls' grace: saying goodbye, closing files, being killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """One Serve deployment. `surge_percent` above 0 starts a new replica before an old one stops.

    `one_a_node` is for a port of the operator's choice, which one process a node can have.
    """

    part: Part
    n_replicas: int
    num_cpus: float
    num_gpus: float
    surge_percent: int
    one_a_node: bool

    @property
    def actor_options(self) -> dict[str, float]:
        """What Ray is to reserve for each replica."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


def plan_deployments(
    options: RayOptions, index: IndexFacts, shard_gpus: float
) -> tuple[DeploymentPlan, ...]:
    """Every deployment but the directory; the routers come last.

    `shard_gpus` are those of a shard's replica.

    Raises:
        ConfigError: a model is given for an index of bare vectors.
    """
    model = model_of(options, index)
    plans = [
        _plan(Part(name=f"shard-{shard}", role="shard", shard=shard),
              options.replicas, options.shard_cpus, shard_gpus)
        for shard in range(index.n_shards)
    ]  # fmt: skip
    if model:
        encoder = Part(name="encoder", role="encoder")
        plans.append(_plan(encoder, options.encoders, options.encoder_cpus, options.encoder_gpus))
    router = Part(name="router", role="router")
    fixed = options.port > 0
    plans.append(_plan(router, options.routers, options.router_cpus, 0, one_a_node=fixed))
    return tuple(plans)


def _plan(
    part: Part, n_replicas: int, num_cpus: float, num_gpus: float, *, one_a_node: bool = False
) -> DeploymentPlan:
    # while it rolls, a replica more is started first, where it needs no port and no GPU that an old
    # one still holds; Serve rounds 1 % up to one replica
    return DeploymentPlan(
        part=part,
        n_replicas=n_replicas,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        surge_percent=0 if num_gpus or part.role == "router" else 1,
        one_a_node=one_a_node,
    )


def lacking_cpus(plans: Sequence[DeploymentPlan], there: float) -> str:
    """What to tell where the Ray cluster's CPUs are too few for these; "" where they suffice."""
    needed = sum(plan.n_replicas * plan.num_cpus for plan in plans)
    if needed <= there:
        return ""
    return (
        f"the Ray cluster has {there:g} CPUs and this reserves {needed:g}: waiting for more nodes; "
        "less is reserved with --shard-cpus, --encoder-cpus and --router-cpus"
    )


def model_of(options: RayOptions, index: IndexFacts) -> str | None:
    """The encoder's model; None for an index of bare vectors.

    Raises:
        ConfigError: a model is given for an index of bare vectors.
    """
    if options.model and index.encoder_model is None:
        raise ConfigError(f"index {index.name!r} is one of bare vectors; leave out --model")
    return options.model or index.encoder_model


def shutdown_s(options: RayOptions) -> float:
    """Seconds after which Serve kills a replica that it asked to stop."""
    return options.grace_s + _MARGIN_S


def child_spec(
    part: Part,
    options: RayOptions,
    index: IndexFacts,
    *,
    name: str,
    host: str,
    version: int,
    port: int = 0,
    token: Path | None = None,
) -> ProcessSpec:
    """How a replica's child is started.

    `name` is for its files and unlike any other's on the node, `host` the node's own address,
    `version` what a shard opens, `port` what a router takes unless the operator chose one, `token`
    the file of the token that the cluster's processes share.
    """
    arguments = {
        "shard": lambda: _shard_arguments(part, options, version),
        "encoder": lambda: ("--model", str(model_of(options, index)), *_device(options)),
        "router": lambda: _router_arguments(options, token),
    }[part.role]()
    num_cpus = {
        "shard": options.shard_cpus,
        "encoder": options.encoder_cpus,
        "router": 1.0,
    }[part.role]
    return ProcessSpec(
        name=name,
        role=part.role,
        shard=part.shard,
        arguments=(
            *arguments,
            "--host",
            host,
            *_door(part, options, token),
            *_traces(part, options),
        ),
        environment={
            "OMP_NUM_THREADS": str(max(1, int(num_cpus))),
            # a waiting OpenMP thread that spins takes the core from the process that has work
            "OMP_WAIT_POLICY": "PASSIVE",
            # Ray names the GPUs that it reserved; without any, `auto` must not take another's
            **({} if _has_gpu(part, options) else {VISIBLE: ""}),
        },
        port=options.port or port if part.role == "router" else 0,
    )


def _traces(part: Part, options: RayOptions) -> tuple[str, ...]:
    traces = options.traces
    return traces.router_arguments if part.role == "router" else traces.arguments


def _has_gpu(part: Part, options: RayOptions) -> bool:
    if part.role == "shard":
        return options.shard_gpus > 0 or options.gpu_memory_bytes is not None
    return part.role == "encoder" and options.encoder_gpus > 0


def _shard_arguments(part: Part, options: RayOptions, version: int) -> tuple[str, ...]:
    cache = ("--cache-dir", str(options.cache_dir)) if options.cache_dir else ()
    where = ("--index", options.index, *(cache if options.place.url else ()))
    return (*where, "--shard", str(part.shard), "--version", str(version), *_device(options))


def _device(options: RayOptions) -> tuple[str, ...]:
    return ("--device", options.device) if options.device else ()


def _router_arguments(options: RayOptions, token: Path | None) -> tuple[str, ...]:
    arguments = ["--topology-source", "leases"]
    if options.tokens is not None:
        arguments += ["--tokens", str(options.tokens)]
    if options.tls_certificate is not None:
        arguments += ["--peer-tls-ca", str(options.tls_ca or options.tls_certificate)]
    if options.tls_server_name:
        arguments += ["--peer-server-name", options.tls_server_name]
    if token is not None:
        arguments += ["--peer-token-file", str(token)]
    if options.live_recall_budget is not None:
        arguments += ["--live-recall-budget", str(options.live_recall_budget)]
    return tuple(arguments)


def _door(part: Part, options: RayOptions, token: Path | None) -> tuple[str, ...]:
    door = ["--insecure"] if options.insecure else []
    if options.tls_certificate is not None:
        door += ["--tls-certificate", str(options.tls_certificate), "--tls-key",
                 str(options.tls_key)]  # fmt: skip
        if options.tls_client_ca is not None and part.role == "router":
            door += ["--tls-client-ca", str(options.tls_client_ca)]
    # shards and encoders answer nobody else; routers who serve without tokens answer everybody
    if token is not None and (part.role != "router" or options.tokens is not None):
        door += ["--internal-token-file", str(token)]
    return tuple(door)
