"""Several commands that change one Ray cluster's applications at once: without Ray."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from deploy.ray.application import IMPORT_PATH, apply
from deploy.ray.turn import own_turn
from shoal.errors import LockedError


class Ray:
    """The names of actors as Ray's GCS keeps them, and Serve's whole config beside.

    A name may be refused at once, or given to another who asked at the same moment.
    """

    def __init__(self) -> None:
        self.names = {}
        self.applications = {}
        self._lock = threading.Lock()

    def remote(self, _):
        return SimpleNamespace(options=self._options)

    def _options(self, *, name, namespace, num_cpus):
        def create():
            actor = object()
            with self._lock:
                self.names.setdefault((namespace, name), actor)
            return actor

        return SimpleNamespace(remote=create)

    def get_actor(self, name, *, namespace):
        with self._lock:
            if (namespace, name) not in self.names:
                raise ValueError("no such actor")
            return self.names[namespace, name]

    def kill(self, actor):
        with self._lock:
            self.names = {name: a for name, a in self.names.items() if a is not actor}

    def get_serve_details(self):
        return {"applications": dict(self.applications)}

    def deploy_apps(self, config):
        time.sleep(0.02)  # who doesn't wait for his turn reads what is about to be replaced
        self.applications = {
            app.name: {"deployed_app_config": app.model_dump(exclude_unset=True)}
            for app in config.applications
        }


@pytest.fixture
def ray(monkeypatch):
    fake = Ray()
    schema = SimpleNamespace(ServeDeploySchema=SimpleNamespace(model_validate=_validated))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.serve", SimpleNamespace(schema=schema))
    monkeypatch.setitem(sys.modules, "ray.serve.schema", schema)
    return fake


def _validated(config):
    apps = [
        SimpleNamespace(name=app["name"], model_dump=lambda app=app, **_: app)
        for app in config["applications"]
    ]
    return SimpleNamespace(applications=apps)


def test_applications_that_are_applied_at_once_all_stay(ray):
    """A config that was read before another's was written would delete that other's cluster."""

    def up(name):
        with own_turn():
            apply(ray, {"name": name, "import_path": IMPORT_PATH})

    names = [f"c{number}" for number in range(4)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(up, names))
    assert sorted(ray.applications) == names
    assert not ray.names


def test_a_turn_is_given_back_by_who_fails_and_not_waited_for_without_end(ray):
    """A command must neither hang nor leave others hanging."""
    with pytest.raises(KeyError), own_turn():
        raise KeyError
    with own_turn(), pytest.raises(LockedError, match="another command"), own_turn(0.0):
        pass
    assert not ray.names
