"""deploy/kuberay.yaml: Kubernetes' and KubeRay's schemas, and that its parts agree."""

import copy
import json
import os
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deploy_files.kuberay_fields import RAY_SERVICE

from deploy.plan import IndexFacts
from deploy.ray.options import ray_options
from deploy.ray.processes import plan_deployments

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.31"
PORT = 50051


@pytest.fixture(scope="module")
def objects():
    """Every object of the file, by (kind, name)."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


@pytest.fixture(scope="module")
def cluster(objects):
    return objects["RayService", "shoal"]["spec"]["rayClusterConfig"]


@pytest.fixture(scope="module")
def groups(cluster):
    """Pod templates by group; the head's is "head"."""
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


@pytest.fixture(scope="module")
def serve(objects):
    return yaml.safe_load(objects["RayService", "shoal"]["spec"]["serveConfigV2"])


def _labels(template):
    return template["metadata"]["labels"]


def _selects(selector, template):
    return selector.items() <= _labels(template).items()


def _container(template):
    (container,) = template["spec"]["containers"]
    return container


def test_kubernetes_takes_its_own_objects(objects):
    """The API server's schemas, with unknown fields refused."""
    core = [each for (kind, _), each in objects.items() if kind != "RayService"]
    assert {each["kind"] for each in core} == {
        "Service", "NetworkPolicy", "ServiceAccount", "PodDisruptionBudget",
    }  # fmt: skip
    for each in core:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_kubernetes_takes_the_pods(groups):
    """KubeRay makes pods of the templates: each must be one by the API server's schema."""
    for group, template in groups.items():
        metadata = {"name": group, **template["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_kuberay_takes_the_service(objects):
    """Fields and types as KubeRay's reference gives them, unknown ones refused."""
    jsonschema.validate(objects["RayService", "shoal"], RAY_SERVICE)


def test_the_schema_refuses_what_is_misspelt(objects):
    """The check above is one that can fail."""
    service = copy.deepcopy(objects["RayService", "shoal"])
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(service, RAY_SERVICE)


@pytest.mark.skipif("SHOAL_KUBERAY_CRD" not in os.environ, reason="SHOAL_KUBERAY_CRD names no file")
def test_the_definition_itself_takes_the_service(objects):
    """KubeRay's own definition, closed like the API server's strict validation."""
    definition = yaml.safe_load(Path(os.environ["SHOAL_KUBERAY_CRD"]).read_text())
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(objects["RayService", "shoal"], schema)


def _closed(schema):
    """A definition's schema with unknown fields refused, and what JSON Schema has no word for."""
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _closed(each) for name, each in value.items()}
        if key == "properties"
        else [_closed(each) for each in value]
        if isinstance(value, list)
        else _closed(value)
        for key, value in schema.items()
    }
    if closed.pop("x-kubernetes-int-or-string", False):
        closed["type"] = ["integer", "string"]
    open_ended = closed.pop("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in closed and not open_ended:
        closed.setdefault("additionalProperties", False)
    return closed


def test_no_probe_asks_for_a_proxy(objects, groups):
    """KubeRay gives a worker that has no readiness probe one for Serve's proxy, which is off."""
    assert objects["RayService", "shoal"]["spec"]["excludeHeadPodFromServeSvc"] is True
    for template in groups.values():
        container = _container(template)
        probes = [container["readinessProbe"], container["livenessProbe"]]
        for probe in probes:
            if "httpGet" in probe:
                assert probe["httpGet"] == {"path": "/api/healthz", "port": 52365}


def test_a_router_is_asked_over_tls_by_the_name_of_its_certificate(groups, serve):
    """The probe's flags are ones that it knows, and its files those that the router serves."""
    from deploy.probe import main

    (shell, flag, line) = _container(groups["routers"])["readinessProbe"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    words = line.replace('"$POD_IP:50051"', "127.0.0.1:1").split()
    assert words[:4] == ["exec", "python", "-m", "deploy.probe"]
    arguments = serve["applications"][0]["args"]
    assert words[words.index("--tls-ca") + 1] == arguments["tls_ca"]
    assert words[words.index("--tls-server-name") + 1] == arguments["tls_server_name"]
    assert main(words[4:]) == 78  # the flags are known, and no such authority is here
    names = [each["name"] for each in _container(groups["routers"])["env"]]
    assert "POD_IP" in names


def test_searches_go_at_the_priority_of_other_programs(groups):
    """Ray starts its workers, and so ours, at nice 15, wherever it isn't told."""
    for name, group in groups.items():
        told = {each["name"]: each.get("value") for each in _container(group)["env"]}
        assert told["RAY_worker_niceness"] == "0", name


def _fits(demand, group):
    """Whether a pod of the group has what Ray is asked to reserve, by what it was told it has."""
    told = group["rayStartParams"]
    resources = json.loads(json.loads(told.get("resources", '"{}"')))
    limits = _container(group["template"])["resources"]["limits"]
    has = {
        "num_cpus": float(told.get("num-cpus", 4)),
        "num_gpus": float(limits.get("nvidia.com/gpu", 0)),
        **resources,
    }
    asks = {**{k: v for k, v in demand.items() if k != "resources"}, **demand.get("resources", {})}
    return all(has.get(what, 0) >= amount for what, amount in asks.items())


def test_every_replica_fits_its_own_group_and_no_other(cluster, serve):
    """A shard in a router's pod has a router's memory, and leaves the router no place."""
    (application,) = serve["applications"]
    index = IndexFacts(name="books", version=1, n_shards=2, encoder_model="x")
    plans = plan_deployments(ray_options(application["args"]), index, 0)
    told = {d["name"]: d.get("ray_actor_options", {}) for d in application["deployments"]}
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    found = {
        plan.part.name: {
            name
            for name, group in groups.items()
            if _fits({**plan.actor_options, **told[plan.part.name]}, group)
        }
        for plan in plans
    }
    backends = {"workers", "gpu-workers"}
    assert found == {
        "router": {"routers"}, "encoder": backends, "shard-0": backends, "shard-1": backends,
    }  # fmt: skip


def test_pods_of_a_group_are_kept_apart(groups):
    """Two replicas on one machine go with it, both."""
    for group in ("routers", "workers", "gpu-workers"):
        (rule,) = groups[group]["spec"]["topologySpreadConstraints"]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert _selects(rule["labelSelector"]["matchLabels"], groups[group])


def test_an_eviction_leaves_a_router_and_a_worker(objects, groups):
    """Kubernetes takes an integer `minAvailable`, and nothing else, for pods whose controller has
    no scale subresource; a RayCluster has none.
    """
    budgets = [each["spec"] for (kind, _), each in objects.items() if kind == "PodDisruptionBudget"]
    assert [budget["minAvailable"] for budget in budgets] == [1, 1]
    covered = [
        {group for group in groups if _selects(budget["selector"]["matchLabels"], groups[group])}
        for budget in budgets
    ]
    assert covered == [{"routers"}, {"workers", "gpu-workers"}]


def test_every_pod_is_somebody_who_may_read_the_index(objects, groups):
    """An index in a bucket is read by shards, and its manifest by the head and the routers. The
    head's account may start pods, so nobody else has it.
    """
    names = {group: template["spec"]["serviceAccountName"] for group, template in groups.items()}
    assert names == {"head": "shoal-head", **dict.fromkeys(set(groups) - {"head"}, "shoal")}
    for name in names.values():
        assert (
            "eks.amazonaws.com/role-arn"
            in (objects["ServiceAccount", name]["metadata"]["annotations"])
        )
    assert objects["ServiceAccount", "shoal"]["automountServiceAccountToken"] is False


def test_every_router_pod_holds_one_router(cluster, serve):
    """The group offers what the router deployment asks for, and nobody else does."""
    (router,) = [d for d in serve["applications"][0]["deployments"] if d["name"] == "router"]
    offers = {g["groupName"]: g["rayStartParams"].get("resources", "") for g in
              cluster["workerGroupSpecs"]}  # fmt: skip
    assert router["ray_actor_options"]["resources"] == {"shoal_router": 1}
    assert offers == {"routers": '"{\\"shoal_router\\": 1}"', "workers": "", "gpu-workers": ""}
    (group,) = [g for g in cluster["workerGroupSpecs"] if g["groupName"] == "routers"]
    assert group["rayStartParams"]["num-cpus"] == str(router["ray_actor_options"]["num_cpus"])
    assert group["minReplicas"] >= router["autoscaling_config"]["min_replicas"]
    assert group["maxReplicas"] >= router["autoscaling_config"]["max_replicas"]


def test_the_service_is_every_router_and_nothing_else(objects, groups):
    """Headless, so that clients see the addresses and balance call by call."""
    service = objects["Service", "shoal"]["spec"]
    assert service["clusterIP"] == "None"
    assert [g for g in groups if _selects(service["selector"], groups[g])] == ["routers"]
    assert [(p["port"], p["targetPort"]) for p in service["ports"]] == [(PORT, PORT)]
    assert [p["containerPort"] for p in _container(groups["routers"])["ports"]] == [PORT]


def test_ray_is_reached_by_its_own_pods_and_the_operator_alone(objects, groups):
    """A policy selects every pod; the operator alone reaches one more port, the dashboard's."""
    policy = objects["NetworkPolicy", "shoal"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all(_selects(policy["podSelector"]["matchLabels"], t) for t in groups.values())
    among_us, operator = policy["ingress"]
    assert among_us == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert all("podSelector" in peer and "namespaceSelector" in peer for peer in operator["from"])


def test_backends_reach_the_routers_port_and_no_other(objects, groups):
    """The second policy adds one port of the router pods to the first."""
    policy = objects["NetworkPolicy", "shoal-routers"]["spec"]
    selected = [g for g in groups if _selects(policy["podSelector"]["matchLabels"], groups[g])]
    (rule,) = policy["ingress"]
    assert selected == ["routers"]
    assert [port["port"] for port in rule["ports"]] == [PORT]


def test_ray_asks_for_a_token_that_this_file_does_not_have(objects, cluster):
    """The Secret is referred to by name; KubeRay wants Ray's version beside it."""
    assert cluster["authOptions"] == {"mode": "token", "secretName": "shoal-ray-token"}
    assert not [kind for kind, _ in objects if kind == "Secret"]


def test_the_image_has_the_ray_that_is_named(cluster):
    """KubeRay chooses probes and tokens by it."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins


def test_pods_are_as_closed_as_the_image(groups):
    """The image's user, no privilege to gain, and every mount has its volume."""
    for template in groups.values():
        pod, container = template["spec"], _container(template)
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_what_the_arguments_name_is_mounted(groups, serve):
    """Certificates, tokens and the cache lie where every pod has them."""
    arguments = serve["applications"][0]["args"]
    names = ("tls_certificate", "tls_key", "tls_ca", "tokens", "cache_dir")
    for template in groups.values():
        mounts = [mount["mountPath"] for mount in _container(template)["volumeMounts"]]
        for name in names:
            assert any(arguments[name].startswith(mount) for mount in mounts), name
