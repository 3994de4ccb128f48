"""The application as a Serve config: made, put among the others of the cluster, and read again.

Rule: the declarative way alone. Its code version is a hash of import path, runtime environment and
`args`, so that applying it again restarts nothing, a changed number of replicas starts or stops
just those, and changed `args` roll every deployment. `serve.run` would restart all each time.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import shoal
from deploy.ray.counts import deployments_of, entry
from deploy.ray.options import RayOptions
from deploy.ray.scaling import Bounds
from shoal.errors import FailedPreconditionError

IMPORT_PATH = "deploy.ray.app:build"
_PACKAGES = ("deploy", "encoder_service", "router", "shard_server", "shoal")
_CARRIED = ("working_dir", "py_modules", "pip", "uv", "conda", "env_vars", "image_uri")
"""What a job's runtime environment says of the program; the rest is the job's own."""


def app_config(
    options: RayOptions, counts: Mapping[str, int], runtime_env: Mapping[str, Any]
) -> dict[str, Any]:
    """One entry of a Serve config's `applications`. Pure.

    `counts` are replicas by deployment; `runtime_env` is the launching job's, empty outside of one.
    """
    carried = {key: value for key, value in runtime_env.items() if key in _CARRIED and value}
    return {
        "name": options.name,
        "route_prefix": None,
        "import_path": IMPORT_PATH,
        "runtime_env": carried,
        "args": options.arguments,
        "deployments": [
            entry(name, Bounds(least=count, most=count)) for name, count in sorted(counts.items())
        ],
    }


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether an entry is a cluster of ours."""
    return config.get("import_path") == IMPORT_PATH


def refuse_other_shards(name: str, deployments: Collection[str], n_shards: int) -> None:
    """Refuses to roll a running application to an index with another number of shards. Pure.

    What runs keeps the pinned version, of which another number of shards can open nothing.

    Raises:
        FailedPreconditionError: with what to do.
    """
    n_running = len(deployments_of("shard", list(deployments)))
    if n_running and n_running != n_shards:
        raise FailedPreconditionError(
            f"cluster {name!r} runs with {n_running} shards and the index's live version has "
            f"{n_shards}; serve it beside under another --name, or end this one first with 'shoal "
            f"down --name {name}'"
        )


def applied_configs(client: Any) -> dict[str, dict[str, Any]]:
    """The entries of all applications that were deployed by config, by name, as they were given."""
    details = client.get_serve_details()
    return {
        name: _as_given(app["deployed_app_config"])
        for name, app in details.get("applications", {}).items()
        if app.get("deployed_app_config")
    }


def apply(client: Any, config: Mapping[str, Any]) -> None:
    """Applies the entry, leaving the other applications as they are.

    Serve deletes what a config leaves out, so all entries are applied together.
    """
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415 -- pure functions need no Ray

    others = applied_configs(client)
    entries = {**others, str(config["name"]): dict(config)}
    client.deploy_apps(
        ServeDeploySchema.model_validate(
            {"proxy_location": "Disabled", "applications": list(entries.values())}
        )
    )


def program_mark() -> str:
    """This program by its release and the content of its modules: another one rolls a cluster."""
    root = Path(shoal.__file__).resolve().parents[1]
    content = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{shoal.__version__}+{content.hexdigest()[:12]}"


def _as_given(config: Any) -> dict[str, Any]:
    given = config if isinstance(config, dict) else config.model_dump(exclude_unset=True)
    # a single application's own host and port are refused among several
    return {key: value for key, value in given.items() if key not in {"host", "port"}}
