"""Several routers of the same shards: what one does in a reload takes nothing from the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.clock import Clock
from fakes.cluster import Cluster, eventually, running

from router import releases as releases_module
from router.admin import AdminServicer
from router.config import RouterConfig
from router.lease_source import LeaseSource
from router.registry import Registry
from router.reload import Reloader
from shoal.errors import DeadlineExceededError, FailedPreconditionError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.rpc.deadline import Deadline


@dataclass
class Router:
    """The lease table, what it leads to, and moves; its door is called without a socket."""

    source: LeaseSource
    registry: Registry
    reloader: Reloader
    admin: AdminServicer

    @property
    def version(self) -> int:
        return self.registry.served.indexes["books"].version

    @property
    def coverage(self) -> float:
        """Of shards that have the version open which this router searches."""
        index = self.registry.served.indexes["books"]
        has = [any(index.version in r.versions for r in replicas) for replicas in index.shards]
        return sum(has) / len(has)

    async def reload(self, version: int, timeout_s: float = 60.0) -> None:
        await self.reloader.reload("books", version, Deadline.after(timeout_s))

    async def hear(self, cluster: Cluster, version: int) -> None:
        """Every replica announces that its cluster is pinned to `version`."""
        for shard, replicas in enumerate(cluster.shards):
            for replica in replicas:
                role = {"index": "books", "shard": shard, "n_shards": len(cluster.shards),
                        "version": version}  # fmt: skip
                told = pb.AnnounceRequest(address=replica.address, shard=role)
                await self.admin.Announce(told, None)


@contextlib.asynccontextmanager
async def router_of(
    cluster: Cluster, clock: Clock, *, release_after_s: float = 0.0
) -> AsyncIterator[Router]:
    config = RouterConfig(
        check_s=0.05, recheck_s=0.05, check_timeout_s=10.0, release_after_s=release_after_s
    )
    source = LeaseSource(clock=clock)
    async with Registry(config, source, n_active=lambda: 0) as registry:
        reloader = Reloader(registry, release_after_s=release_after_s)
        router = Router(source, registry, reloader, AdminServicer(registry, reloader, source))
        await router.hear(cluster, 1)
        await eventually(lambda: router.coverage == 1.0)
        yield router


@contextlib.asynccontextmanager
async def two_routers(folder: Path) -> AsyncIterator[tuple[Cluster, Clock, Router, Router]]:
    clock = Clock()
    async with (
        running(folder, n_replicas=2, n_encoders=0, leases=LeaseSource()) as cluster,
        router_of(cluster, clock) as one,
        router_of(cluster, clock) as two,
    ):
        yield cluster, clock, one, two


def open_versions(cluster: Cluster) -> set[int]:
    return {v for replica in cluster.replicas for v in (replica.version, *replica.loaded)}


def everywhere_open(cluster: Cluster) -> set[int]:
    each = [{replica.version, *replica.loaded} for replica in cluster.replicas]
    return set.intersection(*each)


def other_encoder(version) -> None:
    version.contract.question.fingerprint = "stranger"


async def pause() -> None:
    """Long enough for a release, and for a check, where any is under way."""
    await asyncio.sleep(0.4)


async def test_a_refused_move_closes_nothing_that_another_router_searches(tmp_path):
    """It found the version open: whoever opened it may serve it."""
    async with two_routers(tmp_path) as (cluster, _, one, two):
        await one.reload(2)
        for replica in cluster.replicas:
            replica.script.mutate_loaded = other_encoder
        with pytest.raises(FailedPreconditionError):
            await two.reload(2)
        assert 2 in everywhere_open(cluster)
        assert (one.version, one.coverage) == (2, 1.0)


async def test_a_move_back_costs_the_other_routers_nothing(tmp_path):
    """The first router moved, the second refused: the first goes back at once, and the version that
    the second serves was open all the time.
    """
    async with two_routers(tmp_path) as (cluster, _, one, two):
        await one.reload(2)
        await pause()
        assert everywhere_open(cluster) == {1, 2}
        await one.reload(1)
        assert (one.version, two.version) == (1, 1)
        assert all(1 not in replica.script.released for replica in cluster.replicas)
        for router in (one, two):
            await router.hear(cluster, 1)
        await eventually(lambda: open_versions(cluster) == {1})
        assert one.coverage == two.coverage == 1.0


async def test_the_old_version_is_closed_once_the_new_one_is_pinned(tmp_path):
    """Not when this router moved: another may still be loading."""
    async with two_routers(tmp_path) as (cluster, _, one, two):
        await one.reload(2)
        await one.hear(cluster, 1)
        await pause()
        assert everywhere_open(cluster) == {1, 2}
        await two.reload(2)
        for router in (one, two):
            await router.hear(cluster, 2)
        await eventually(lambda: open_versions(cluster) == {2})
        assert (one.version, two.version) == (2, 2)


async def test_a_reload_that_is_never_pinned_is_undone(tmp_path):
    """The command was interrupted after the first router: nobody goes without an answer, and half a
    minute later all serve what is pinned.
    """
    async with two_routers(tmp_path) as (cluster, clock, one, two):
        await one.reload(2)
        for _ in range(29):
            clock.now_s += 0.5
            await one.hear(cluster, 1)
        assert (one.version, two.version) == (2, 1)
        await eventually(lambda: one.coverage == two.coverage == 1.0)
        for _ in range(32):
            clock.now_s += 0.5
            await one.hear(cluster, 1)
        assert (one.version, two.version) == (1, 1)
        assert one.coverage == two.coverage == 1.0


async def test_what_another_router_opens_meanwhile_is_not_closed(tmp_path):
    """A release closes what its own move left, whatever else is open by then."""
    async with two_routers(tmp_path) as (cluster, _, one, _):
        await one.reload(2)
        for replica in cluster.replicas:
            replica.loaded.add(7)
        await one.hear(cluster, 2)
        await eventually(lambda: 1 not in open_versions(cluster))
        await pause()
        assert everywhere_open(cluster) == {2, 7}


async def test_what_was_left_open_is_closed_by_the_next_move(tmp_path):
    """A router that ended before its release has forgotten it."""
    async with two_routers(tmp_path) as (cluster, _, one, _):
        for replica in cluster.replicas:
            replica.loaded.add(9)
        await one.reload(2)
        await one.hear(cluster, 2)
        await eventually(lambda: open_versions(cluster) == {2})


async def test_a_third_version_waits_for_the_pin_of_the_second(tmp_path, monkeypatch):
    """Three versions in memory are one too many; the refusal says what was left undone."""
    async with two_routers(tmp_path) as (cluster, _, one, _):
        await one.reload(2)
        with monkeypatch.context() as patch:
            patch.setattr(releases_module, "_PATIENCE_S", 0.2)
            with pytest.raises(FailedPreconditionError, match="don't announce that"):
                await one.reload(3)
        await one.hear(cluster, 2)
        await one.reload(3)
        assert one.version == 3
        assert 1 not in open_versions(cluster)


async def test_a_move_that_timed_out_ends_what_it_began_to_open(tmp_path):
    """A shard goes on loading when its caller has left."""
    async with two_routers(tmp_path) as (cluster, _, one, _):
        slow = cluster.shards[0][1]
        slow.script.load_gate.clear()
        timeout_s = 0.5
        while not slow.script.n_loads:  # a slow machine may not come to ask in so little time
            with pytest.raises(DeadlineExceededError):
                await one.reload(2, timeout_s=timeout_s)
            timeout_s *= 2
        await eventually(lambda: set(slow.script.released) == {2})
        slow.script.load_gate.set()


@pytest.mark.parametrize("dead", [False, True])
async def test_a_router_follows_an_agreement_that_costs_it_nothing(tmp_path, caplog, dead):
    """One shard without its new version, or without anybody, is no reason to search a version that
    is closed everywhere.
    """
    async with two_routers(tmp_path) as (cluster, _, one, _):
        for replica in cluster.shards[1]:
            replica.version = 2
        if dead:
            for replica in cluster.shards[0]:
                await replica.stop()
        else:
            cluster.shards[0][1].version = 2
        versions = [2, 2] if dead else [1, 2, 2, 2]
        shards = one.registry.served.indexes["books"].shards
        await eventually(
            lambda: (
                sorted(v for rs in shards for r in rs if r.usable for v in r.versions) == versions
            )
        )
        await one.hear(cluster, 2)
        assert one.version == 2
        assert "took version 2" in caplog.text


async def test_an_agreement_that_cannot_be_followed_is_told_once(tmp_path, caplog):
    """It is asked for with every announcement, and an operator must hear of it."""
    async with two_routers(tmp_path) as (cluster, _, one, _):
        for _ in range(3):
            await one.hear(cluster, 2)
        assert one.version == 1
        assert caplog.text.count("stays at version 1 though all announce 2") == 1
