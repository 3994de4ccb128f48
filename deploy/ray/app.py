"""The Serve application: `shoal up`, a Ray job and `serve deploy` all build it here.

A Serve config names it as `import_path: deploy.ray.app:build` with `RayOptions` as `args`. What
makes Serve restart replicas is a change of the `args` (or of the runtime environment); a
`num_replicas` under `deployments:` changes the count and restarts nothing (docs/decisions.md).
"""

from typing import Any

from ray import serve
from ray.serve import Application

from deploy.local import index_facts
from deploy.ray.application import refuse_other_shards
from deploy.ray.connection import serve_statuses
from deploy.ray.directory import Directory
from deploy.ray.gpu_share import shard_gpus
from deploy.ray.options import RayOptions
from deploy.ray.processes import HEALTH_S, DeploymentPlan, plan_deployments, shutdown_s
from deploy.ray.replica import Replica

DIRECTORY = "directory"


def build(args: RayOptions) -> Application:
    """The application, from the index's live version as this node reads it.

    Raises:
        ConfigError, IndexFormatError, NotFoundError: of the options, or of the index.
        FailedPreconditionError: what runs has another number of shards, and goes on.
    """
    facts = index_facts(args.place)
    if running := serve_statuses().get(args.name):
        refuse_other_shards(args.name, running.deployments, facts.n_shards)
    plans = plan_deployments(args, facts, shard_gpus(args))
    directory = serve.deployment(
        name=DIRECTORY,
        num_replicas=1,
        max_ongoing_requests=1000,
        health_check_period_s=HEALTH_S,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )(Directory).bind(facts.version, args.closed)
    *backends, router = (serve.deployment(**_settings(plan, args))(Replica).bind for plan in plans)
    others = tuple(
        bind(plan.part, args, facts, directory)
        for bind, plan in zip(backends, plans[:-1], strict=True)
    )
    # an application is what its root reaches; nobody calls it
    return router(plans[-1].part, args, facts, directory, others)


def _settings(plan: DeploymentPlan, options: RayOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "name": plan.part.name,
        "num_replicas": plan.n_replicas,
        "ray_actor_options": plan.actor_options,
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": 5 * HEALTH_S,
        "graceful_shutdown_wait_loop_s": 0.1,  # no call ever goes through the actor
        "graceful_shutdown_timeout_s": shutdown_s(options),
        "max_surge_percent": plan.surge_percent,
        "logging_config": {"enable_access_log": False},
    }
    if plan.one_a_node:
        settings["max_replicas_per_node"] = 1
    return settings
