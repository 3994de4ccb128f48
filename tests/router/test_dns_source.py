"""Names that stand for many addresses: looked up again and again, kept where that fails."""

import asyncio
import concurrent.futures
import json
import socket
import threading

import pytest
from fakes.asking import request
from fakes.cluster import eventually, running

from router import dns_source
from router.dns_source import DnsSource, expanded, names_in
from router.file_source import FileSource
from router.system_resolver import SystemResolver, look_up
from router.topology import parse_topology
from router.topology_file import TopologyFile


class Resolver:
    """Answers as told; `hosts` may change between look-ups."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.n_asked = 0
        self.raises: BaseException | None = None

    async def __call__(self, host: str, port: int) -> list[str]:
        self.n_asked += 1
        if self.raises:
            raise self.raises
        if host not in self.hosts:
            raise OSError(f"{host} is not known")
        return self.hosts[host]


def written(tmp_path, shards: list[list[str]], encoders: list[str], version: int = 1) -> FileSource:
    told = {"indexes": [{"name": "books", "version": version, "shards": shards}],
            "encoders": encoders}  # fmt: skip
    new = tmp_path / "new.json"
    new.write_text(json.dumps(told))
    new.replace(tmp_path / "topology.json")
    return FileSource(TopologyFile(tmp_path / "topology.json"))


def test_a_name_stands_for_all_of_its_addresses():
    """In their place in the list, each once; what is no name stays as it is."""
    text = json.dumps({
        "indexes": [{"name": "books", "version": 1,
                     "shards": [["dns:a:1", "10.0.0.9:1"], ["dns:b:1", "dns:///c:1"]]}],
        "encoders": ["unix:/run/encoder", "dns:a:1"],
    })  # fmt: skip
    topology = parse_topology(text, "test")
    assert names_in(topology) == {"dns:a:1", "dns:b:1"}
    known = {"dns:a:1": ("10.0.0.1:1", "10.0.0.9:1", "[::1]:1")}
    replaced = expanded(topology, known)
    assert replaced.indexes[0].shards == (("10.0.0.1:1", "10.0.0.9:1", "[::1]:1"), ("dns:///c:1",))
    assert replaced.encoders == ("unix:/run/encoder", "10.0.0.1:1", "10.0.0.9:1", "[::1]:1")


async def test_addresses_that_come_and_go_are_followed(tmp_path):
    """A change of either, the names' addresses or the file, is told."""
    resolver = Resolver(a=["10.0.0.2", "10.0.0.1"], e=["::1"])
    source = DnsSource(written(tmp_path, [["dns:a:1"]], ["dns:e:2"]), every_s=0.01,
                       resolve=resolver)  # fmt: skip
    topology = await source.read()
    assert topology.indexes[0].shards == (("10.0.0.1:1", "10.0.0.2:1"),)
    assert topology.encoders == ("[::1]:2",)
    changed = asyncio.ensure_future(source.changed())
    resolver.hosts["a"] = ["10.0.0.3"]
    await asyncio.wait_for(changed, 60)
    assert (await source.read()).indexes[0].shards == (("10.0.0.3:1",),)
    changed = asyncio.ensure_future(source.changed())
    written(tmp_path, [["10.0.0.4:1"]], [])
    await asyncio.wait_for(changed, 60)
    assert (await source.read()).indexes[0].shards == (("10.0.0.4:1",),)


@pytest.mark.parametrize("failure", [OSError("no resolver"), TimeoutError()])
async def test_a_failing_resolver_changes_nothing(tmp_path, failure):
    """What was known is kept, a name that never was has nobody; then it is followed again."""
    resolver = Resolver(a=["10.0.0.1"])
    source = DnsSource(written(tmp_path, [["dns:a:1", "dns:b:1"]], []), every_s=0.01,
                       resolve=resolver)  # fmt: skip
    assert (await source.read()).indexes[0].shards == (("10.0.0.1:1",),)
    resolver.raises, asked = failure, resolver.n_asked
    changed = asyncio.ensure_future(source.changed())
    await eventually(lambda: resolver.n_asked >= asked + 4 or changed.done())
    assert not changed.done()
    resolver.raises, resolver.hosts["b"] = None, ["10.0.0.2"]
    await asyncio.wait_for(changed, 60)
    assert (await source.read()).indexes[0].shards == (("10.0.0.1:1", "10.0.0.2:1"),)


async def test_a_reload_leaves_names_in_the_file(tmp_path):
    """The version is written; the addresses of this moment are not."""
    source = DnsSource(written(tmp_path, [["dns:a:1"]], []), every_s=60,
                       resolve=Resolver(a=["10.0.0.1"]))  # fmt: skip
    await source.read()
    await source.record("books", 1, 2)
    told = json.loads((tmp_path / "topology.json").read_text())
    assert told["indexes"] == [{"name": "books", "version": 2, "shards": [["dns:a:1"]]}]


async def test_the_systems_resolver_is_asked():
    """localhost, which every machine knows."""
    assert {"127.0.0.1", "::1"} & set(await SystemResolver()("localhost", 5001))
    with pytest.raises(UnicodeError, match="label"):
        await SystemResolver()("a" * 300 + ".invalid", 5001)


@pytest.mark.parametrize("first", ["10.0.0.1", "2001:db8::1"])
def test_a_process_with_addresses_of_both_kinds_is_one(monkeypatch, first):
    """It would be two replicas, with twice its share of the work; the system's choice decides."""

    def found(host, port, **_):
        addresses = ["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"]
        for address in sorted(addresses, key=lambda a: (":" in a) != (":" in first)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            yield family, socket.SOCK_STREAM, 6, "", (address, port)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: list(found(*args, **kw)))
    same = ["10.0.0.1", "10.0.0.2"] if "." in first else ["2001:db8::1", "2001:db8::2"]
    assert look_up("both", 1) == same


async def test_a_resolver_that_hangs_leaves_the_file_followed(tmp_path, monkeypatch):
    """One thread a name, not one of those that read the file; it is asked again once it answers."""
    hangs, n_begun = threading.Event(), [0]

    def hang(host, port, **_):
        n_begun[0] += 1
        hangs.wait(100)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(dns_source, "_LOOKUP_TIMEOUT_S", 0.01)
    with concurrent.futures.ThreadPoolExecutor(1) as readers:
        asyncio.get_running_loop().set_default_executor(readers)
        source = DnsSource(written(tmp_path, [["dns:a:1"]], []), every_s=0.0)
        try:
            assert (await source.read()).indexes[0].shards == ((),)
            await eventually(lambda: n_begun == [1])  # its thread begins when the system likes
            assert (await source.read()).indexes[0].shards == ((),)
            assert n_begun == [1]
            changed = asyncio.ensure_future(source.changed())
            written(tmp_path, [["10.0.0.4:1"]], [])
            await asyncio.wait_for(changed, 60)
            assert (await source.read()).indexes[0].shards == (("10.0.0.4:1",),)
            written(tmp_path, [["dns:a:1"]], [])
            await asyncio.wait_for(source.changed(), 60)
            assert n_begun == [1]
        finally:
            hangs.set()
        async with asyncio.timeout(60):
            while (await source.read()).indexes[0].shards != (("10.0.0.1:1",),):
                await source.changed()


async def test_a_cluster_behind_a_name_answers(tmp_path):
    """Through a real router: the shard is known by nothing but its name."""
    async with running(tmp_path, n_shards=1) as cluster:
        port = cluster.shards[0][0].address.rpartition(":")[2]
        resolver = Resolver(shards=["127.0.0.1"])
        named = written(tmp_path, [[f"dns:shards:{port}"]], [])
        cluster.registry._source = DnsSource(named, every_s=60, resolve=resolver)
        await cluster.registry.follow()
        assert (await cluster.search(request())).coverage == 1.0
        assert resolver.n_asked
