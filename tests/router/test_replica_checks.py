"""What a replica's checks prove, with a client whose every answer is the test's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.cluster import eventually
from prometheus_client import REGISTRY

from router.cluster import Replica, Shared
from router.config import RouterConfig
from router.standing import State
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnavailableError,
)


class Client:
    """A process whose checks end as `answers` says, one after the other."""

    address = "scripted:1"

    def __init__(self) -> None:
        self.n_asked = 0
        self.answers: asyncio.Queue[Exception | str] = asyncio.Queue()

    async def describe(self, timeout_s: float) -> str:
        self.n_asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass


class Watched(Replica[str]):
    """With no calls of its own; it is counted as a shard's."""

    _component = "shard"


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[tuple[Client, Replica[str]]]:
    config = RouterConfig(topology=Path("none"), check_s=0.001, recheck_s=0.001)
    async with asyncio.TaskGroup() as tasks:
        client = Client()
        replica = Watched(client, Shared(config=config, tasks=tasks, n_active=lambda: 0))
        yield client, replica
        await replica.close()


async def test_a_busy_process_whose_calls_are_answered_is_not_left_out():
    """A check that is late proves nothing against answers that came meanwhile; silence does."""
    late = DeadlineExceededError("late")
    async with watched() as (client, replica):
        client.answers.put_nowait("books")
        await eventually(lambda: client.n_asked == 2)
        assert replica.standing.state is State.HEALTHY
        replica.heard()
        client.answers.put_nowait(late)
        await eventually(lambda: client.n_asked == 3)
        assert replica.usable
        client.answers.put_nowait(late)
        await eventually(lambda: client.n_asked == 4)
        assert not replica.usable


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (UnavailableError("connection refused"), "unreachable"),
        (CancelledError("stopping"), "unreachable"),
        (DeadlineExceededError("late"), "unresponsive"),
        (PermissionDeniedError("not with this token"), "unfit"),
    ],
)
async def test_the_metric_says_why_a_replica_is_left_out(failure, cause):
    """Who answers with a refusal was reached: looking at the network would be in vain."""
    labels = {"component": "shard", "cause": cause}

    def n_ejected() -> float:
        return REGISTRY.get_sample_value("shoal_ejections_total", labels) or 0.0

    async with watched() as (client, replica):
        client.answers.put_nowait("books")
        await eventually(lambda: client.n_asked == 2)
        before = n_ejected()
        client.answers.put_nowait(failure)
        await eventually(lambda: client.n_asked == 3)
        assert not replica.usable
        assert n_ejected() == before + 1
