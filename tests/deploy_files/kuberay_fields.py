"""The fields of KubeRay's RayService that our manifest uses, as a JSON schema.

Written from KubeRay's API reference, and closed on purpose: a field that isn't here is unknown, so
that a misspelt one fails. Pod templates are left to Kubernetes' own schemas. The definition itself
(ray.io_rayservices.yaml of KubeRay's chart, 1 MB) can be given beside it: SHOAL_KUBERAY_CRD=FILE.
Source: https://ray-project.github.io/kuberay/reference/api/ (ray.io/v1).
"""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}


def _closed(fields: dict[str, Schema], *required: str) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


_GROUP: dict[str, Schema] = {"rayStartParams": _TEXTS, "template": {"type": "object"}}

_HEAD_GROUP = _closed({**_GROUP, "serviceType": _TEXT}, "template")

_WORKER_GROUP = _closed(
    {
        **_GROUP,
        "groupName": _TEXT,
        "replicas": _COUNT,
        "minReplicas": _COUNT,
        "maxReplicas": _COUNT,
        "numOfHosts": _COUNT,
        "idleTimeoutSeconds": _COUNT,
    },
    "groupName", "minReplicas", "maxReplicas", "template",
)  # fmt: skip

_CLUSTER = _closed(
    {
        "rayVersion": _TEXT,
        "authOptions": _closed({"mode": {"enum": ["disabled", "token"]}, "secretName": _TEXT}),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "gcsFaultToleranceOptions": _closed({"redisAddress": _TEXT}, "redisAddress"),
        "headGroupSpec": _HEAD_GROUP,
        "workerGroupSpecs": {"type": "array", "items": _WORKER_GROUP},
    },
    "headGroupSpec",
)

RAY_SERVICE = _closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayService"},
        "metadata": _closed({"name": _TEXT, "namespace": _TEXT}, "name"),
        "spec": _closed(
            {
                "excludeHeadPodFromServeSvc": {"type": "boolean"},
                "serveConfigV2": _TEXT,
                "rayClusterConfig": _CLUSTER,
            },
            "serveConfigV2", "rayClusterConfig",
        ),
    },
    "apiVersion", "kind", "metadata", "spec",
)  # fmt: skip
