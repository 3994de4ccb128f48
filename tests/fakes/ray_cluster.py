"""A cluster that `shoal up --on ray` started, under an open loop of queries."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable

import grpc
from faults.load import METHOD, Run, requests_of, under_load, until
from faults.oracle import Oracle

from shoal.bench.target import OK
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

TIMEOUT_S = 5.0
_SERVICE = "shoal.v1.SearchService"
_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Served:
    """The cluster, asked by the command."""

    def __init__(self, on_ray, mini) -> None:
        self._on_ray = on_ray
        self._index = str(mini.folder)
        self.target = ""

    def up(self, *flags: str) -> None:
        done = self._on_ray(
            "up", "--on", "ray", "--index", self._index, "--replicas", "2", "--routers", "2",
            "--json", *flags,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.target = json.loads(done.stdout)["target"]

    def status(self) -> dict:
        return json.loads(self._on_ray("status", "--json").stdout or "{}")

    def replicas(self) -> dict[str, dict]:
        return {r["replica"]: r for r in self.status().get("replicas", ())}

    def shards(self) -> list[dict]:
        return [r for r in self.replicas().values() if r["role"] == "shard"]

    def whole(self) -> bool:
        status = self.status()
        return bool(status.get("healthy")) and len(status["replicas"]) == 6


@contextlib.asynccontextmanager
async def asking(target: str, requests: list[bytes]):
    """An `Ask` as our client's: balanced over all routers, and again where nobody took the call."""
    async with open_channel(target, balanced=_SERVICE) as channel:
        method = channel.unary_unary(METHOD, None, pb.SearchResponse.FromString)

        async def ask(i: int, timeout_s: float) -> tuple[str, pb.SearchResponse | None, str]:
            end_s = time.monotonic() + timeout_s
            while True:
                left_s = end_s - time.monotonic()
                try:
                    return OK, await method(requests[i % len(requests)], timeout=left_s), ""
                except grpc.RpcError as failure:
                    told = error_of(failure)
                    pushed = dict(failure.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
                    if failure.code() not in _AGAIN or pushed == "-1" or left_s < 0.2:
                        return failure.code().name, None, f"{type(told).__name__}: {told.message}"
                await asyncio.sleep(0.05)

        yield ask


async def none_fails(
    served: Served,
    oracle: Oracle,
    inject: Callable[[Run], Awaitable[None]],
    *,
    rate: float,
    after_s: float = 5.0,
    within_s: float = 0.0,
) -> Run:
    """An open loop around a fault of a whole cluster, of which no query fails.

    Those due in the first `within_s` seconds of the fault may.
    """
    await until(served.whole, 90.0, "the cluster is whole")
    async with asking(served.target, requests_of(oracle)) as ask:
        seen = await under_load(
            ask, oracle, inject, rate=rate, timeout_s=TIMEOUT_S, after_s=after_s
        )
    failed = [s for s in seen.during if s.code != OK and s.due_s >= seen.fault_s + within_s]
    told = [(round(s.due_s - seen.fault_s, 1), s.code, s.reason) for s in failed[:5]]
    assert not failed, f"{len(failed)} failed, the first at {told}"
    seen.check()
    return seen
