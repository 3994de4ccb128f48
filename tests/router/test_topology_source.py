"""Which source a router follows: one, and the settings say which."""

import asyncio
from pathlib import Path

import grpc
import pytest
from fakes.asking import refusal, request
from fakes.cluster import running

from router.__main__ import source_of
from router.config import RouterConfig
from router.dns_source import DnsSource
from router.lease_source import LeaseSource
from shoal.errors import ConfigError


def test_the_settings_choose_the_source():
    """A file without another word; leases need none."""
    assert isinstance(source_of(RouterConfig(topology=Path("t.json"))), DnsSource)
    assert isinstance(source_of(RouterConfig(topology_source="leases")), LeaseSource)


def test_a_file_that_is_missing_is_told_with_what_to_do():
    """Whoever starts a router by hand learns both ways."""
    with pytest.raises(ConfigError, match="--topology FILE, or --topology-source leases"):
        source_of(RouterConfig())


def test_a_file_beside_leases_is_refused():
    """Nobody would read it, and its owner would wonder."""
    with pytest.raises(ConfigError, match="leave out one"):
        source_of(RouterConfig(topology=Path("t.json"), topology_source="leases"))


async def test_a_router_that_heard_nothing_serves_after_a_while(tmp_path, monkeypatch):
    """A launcher that waits for SERVING must not wait for ever; answers say why there are none."""
    monkeypatch.setattr("router.registry._LEARNING_S", 0.05)
    async with running(tmp_path, leases=LeaseSource()) as cluster:
        await asyncio.wait_for(cluster.registry.ready(), 60)
        failure = await refusal(cluster.search(request(index="books")))
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert "no shard server has announced itself" in failure.details()
