"""The Serve configs that operators start from: deploy/serve.yaml, and the one inside KubeRay's."""

from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(params=["serve.yaml", "kuberay.yaml"])
def config(request):
    """The config as Serve is given it."""
    documents = list(yaml.safe_load_all((DEPLOY / request.param).read_text()))
    if request.param == "serve.yaml":
        return documents[0]
    (service,) = [each for each in documents if each["kind"] == "RayService"]
    return yaml.safe_load(service["spec"]["serveConfigV2"])


@pytest.mark.filterwarnings("ignore:Using extra keyword:DeprecationWarning")  # ray.serve's own
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")  # counts.py
def test_serve_takes_it(config):
    """Serve's own model of it, and no proxy that would carry queries."""
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(config)
    assert parsed.proxy_location.value == "Disabled"


def test_its_arguments_are_options_of_the_application(config):
    """Unknown arguments would end the deployment minutes later, in a log of Serve's controller."""
    from deploy.ray.app import build
    from deploy.ray.options import RayOptions

    (application,) = config["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    options = RayOptions.model_validate(application["args"])
    assert options.port == 50051
    assert options.tokens
    assert options.tls_certificate
    assert not options.insecure


def test_its_deployments_are_those_of_the_application(config):
    """Serve refuses a configuration that names a deployment which the application lacks."""
    (application,) = config["applications"]
    names = {deployment["name"] for deployment in application["deployments"]}
    assert {"router", "encoder", "shard-0"} <= names
    assert names <= {"router", "encoder", "directory", *(f"shard-{i}" for i in range(8))}


def test_its_numbers_are_those_that_scaling_goes_on_from(config):
    """Serve has replicas tell their load only where they were started with bounds and a policy:
    `shoal scale encoder=1..4` would be blind to those of a plain number.
    """
    from deploy.ray.counts import bounds_of, entry

    (application,) = config["applications"]
    for told in application["deployments"]:
        numbers = {key: value for key, value in told.items() if key != "ray_actor_options"}
        assert numbers == entry(told["name"], bounds_of(application, told["name"]))
