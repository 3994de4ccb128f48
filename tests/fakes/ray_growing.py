"""deploy/cluster.yaml on this machine: Ray's autoscaler with a provider whose nodes are processes.

The workers' types, how few and how many of each, and the cluster's limits are the file's.
Overridden are what each type has, which AWS would tell; how long a node may idle; and the head's
type, which Ray's fake provider knows by one name.
"""

from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).resolve().parents[2] / "deploy" / "cluster.yaml"
_HEAD = "ray.head.default"
_HEAD_ID = "f" * 51 + "0" * 5
_STORE = 100_000_000  # bytes; Ray's default is a share of the machine's memory a node
IDLE_S = 15.0

VARIABLES = {
    "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    # new nodes take Ray's own idea of this machine's address, which is loopback then
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""What the head's environment must say."""


def growing(resources: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The cluster file, for workers with these resources by their type's name."""
    given = yaml.safe_load(_FILE.read_text())
    types = given["available_node_types"]
    head = types.pop(given["head_node_type"])
    workers = {
        name: {
            "min_workers": of["min_workers"],
            "max_workers": of["max_workers"],
            "resources": {**resources[name], "object_store_memory": _STORE},
            "node_config": {},
        }
        for name, of in types.items()
    }
    return {
        **given,
        "file_mounts": {},  # the provider starts its nodes as they are: no file, no command
        "auth": {},
        "worker_setup_commands": [],
        "cluster_synced_files": [],
        "idle_timeout_minutes": IDLE_S / 60,
        # by its class: what its short name stands for wants a file that Ray's wheel lacks
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": _HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "head_node_type": _HEAD,
        "available_node_types": {
            _HEAD: {"resources": head["resources"], "max_workers": 0, "node_config": {}},
            **workers,
        },
    }
