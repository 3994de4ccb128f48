"""How a supervisor tells Serve its child's load: the numbers that `scaling.Load` is made of.

Rule: always an answer, in less than a second. A child that answers its page but none of its callers
waits ever longer: a hung encoder measures no wait, as nothing leaves its queue.
"""

from dataclasses import asdict, fields

from deploy.load import Counters, ProcessLoad, load_between, read_counters
from deploy.plan import Role
from deploy.ray.scaling import Load


class ChildLoad:
    """Looks at one child's page, each time it is asked."""

    def __init__(self, role: Role) -> None:
        self._role: Role = role
        self._before: Counters | None = None
        self._answered_s = 0.0
        self.last: ProcessLoad | None = None
        self.page = ""

    async def record(self, page: str) -> dict[str, float]:
        """The load since the last call, by `Load`'s field names; {} where nothing is known.

        Args:
            page: the child's Prometheus page, host:port; "" while it has none.
        """
        self.page = page
        now = await read_counters(page)
        before, self._before = self._before, now
        if now is None or before is None:
            self.last = None
            self._answered_s = now.at_s if now else 0.0
            return {}
        self.last = load_between(before, now)
        if self.last.qps > 0 or not self.last.in_flight:
            self._answered_s = now.at_s
        stats = asdict(load_told(self._role, self.last, now.at_s - self._answered_s))
        return {field.name: float(stats[field.name]) for field in fields(Load)}


def load_told(role: Role, load: ProcessLoad, silent_s: float) -> Load:
    """What the policy is told. Pure.

    A router's refusals are left out: it refuses for its encoders and shards, which more routers
    don't relieve.

    Args:
        role: the child's.
        load: between the last two looks.
        silent_s: since when it has had work and answered none.
    """
    return Load(
        in_flight=float(load.in_flight),
        wait_s=max(load.wait_s, silent_s),
        busy=load.busy,
        served_per_s=load.qps,
        refused_per_s=0.0 if role == "router" else load.refused_per_s,
    )
