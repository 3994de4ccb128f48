"""What a replica's checks prove, with a client whose every answer is the test's."""

import asyncio
from pathlib import Path

from fakes.cluster import eventually

from router.cluster import Replica, Shared
from router.config import RouterConfig
from router.standing import State
from shoal.errors import DeadlineExceededError


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


async def test_a_busy_process_whose_calls_are_answered_is_not_left_out():
    """A check that is late proves nothing against answers that came meanwhile; silence does."""
    config = RouterConfig(topology=Path("none"), check_s=0.001, recheck_s=0.001)
    late = DeadlineExceededError("late")
    async with asyncio.TaskGroup() as tasks:
        client = Client()
        replica = Replica(client, Shared(config=config, tasks=tasks, n_active=lambda: 0))
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
        await replica.close()
