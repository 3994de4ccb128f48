"""What Serve says of an application that starts: told once a change, and when it is over. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shoal import errors

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

_OURS = re.compile(r"shoal\.errors\.(\w+): ([^\n]+)")
_LAST = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception)): ([^\n]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many replicas each deployment shall have, and how many ran when last seen."""

    counts: Mapping[str, int]
    running: Mapping[str, int] = field(default_factory=dict)

    def seen(self, status: "ApplicationStatusOverview") -> tuple["Progress", list[str]]:
        """After this status, and a line for each deployment whose number changed."""
        running = {
            name: n_running(status.deployments[name].replica_states)
            for name in self.counts
            if name in status.deployments
        }
        lines = [
            f"{name}: {count} of {self.counts[name]} running"
            for name, count in running.items()
            if count != self.running.get(name, 0)
        ]
        return replace(self, running=running), lines

    @property
    def whole(self) -> bool:
        """Whether all run."""
        return all(self.running.get(name, 0) >= count for name, count in self.counts.items())

    @property
    def missing(self) -> str:
        """What does not run, in words."""
        lacks = [
            f"{name} runs {self.running.get(name, 0)} of {count}"
            for name, count in self.counts.items()
            if self.running.get(name, 0) < count
        ]
        return ", ".join(lacks) or "Serve still changes it"


def n_running(states: Mapping[Any, int]) -> int:
    """How many replicas run."""
    # Serve's states are texts
    return sum(count for state, count in states.items() if state == "RUNNING")


def failure_of(status: "ApplicationStatusOverview") -> errors.ShoalError | None:
    """Why the application can't start, as our own error where a replica raised one."""
    if status.status != "DEPLOY_FAILED":
        return None
    texts = [status.message, *(d.message for d in status.deployments.values())]
    for pattern in (_OURS, _LAST):
        for text in texts:
            if found := pattern.findall(text):
                name, message = found[-1]
                cls = getattr(errors, name, None)
                if isinstance(cls, type) and issubclass(cls, errors.ShoalError):
                    return cls(message)
                return errors.UnavailableError(f"the cluster could not start: {message}")
    said = " ".join(texts[0].split())[:300]
    return errors.UnavailableError(f"the cluster could not start: {said}")
