"""The application of `bench.scaling`: deploy/ray's own, whose encoders are `bench.slow_encoder`s.

Serve imports this wherever it builds the application or starts a replica.
"""

from ray.serve import Application

from deploy import plan
from deploy.ray import app
from deploy.ray.options import RayOptions
from deploy.ray.replica import Replica


class SlowReplica(Replica):
    """A replica in whose process "encoder" means the slow one."""


plan.MODULES["encoder"] = "bench.slow_encoder"
app.Replica = SlowReplica  # type: ignore[attr-defined]


def build(args: RayOptions) -> Application:
    """The application."""
    return app.build(args)
