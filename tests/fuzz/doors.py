"""Every service behind a real door on loopback, asked with bytes, and what must hold meanwhile.

The router is the real one over scripted shards and encoder, the shard the real one over a tiny
index, the encoder the real one over a stub model. One event loop runs them and the client, and only
while somebody asks: so that hypothesis, which is synchronous, can drive it.
"""

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from fakes.cluster import running
from fuzz import tiny
from fuzz.rpcs import HURRIED, OK, Rpc
from google.protobuf.message import Message

from encoder_service.config import EncoderConfig
from encoder_service.service import EncoderService
from router.admin import AdminServicer
from router.lease_source import LeaseSource
from router.reload import Reloader
from router.served import Served
from shard_server.building import add_passages, build_index
from shard_server.config import ShardConfig
from shard_server.service import ShardServicer
from shoal.internal.v1 import admin_pb2_grpc, shard_pb2, shard_pb2_grpc
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import MAX_MESSAGE_BYTES, server_options
from shoal.rpc.status import error_of, from_status
from shoal.v1 import encoder_pb2_grpc

HANG_S = 60.0
"""No call of a healthy, idle server takes as long, however slow its machine."""
HURRY_MS = 10_000
"""An item that names less time may be late on a slow machine."""
_OURS = ("shoal", "router", "shard_server", "encoder_service", "prometheus_client", "_asyncio")
_SLACK = 200
"""Objects that caches and pools may add: the largest holds 64."""


class Complaints(logging.Handler):
    """Collects what a server must never say: errors, and anything with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(logging.Formatter().format(record))


class Announced:
    """A registry that takes what was announced and connects to nobody: addresses are drawn."""

    is_behind = False

    def __init__(self) -> None:
        self.source = LeaseSource()
        self.served = Served()

    async def follow(self) -> None:
        await self.source.read()

    def forget(self) -> None:
        for address in list(self.source._table.leases):
            self.source.leave(address)


class Doors:
    """What is asked; `ask` raises AssertionError for every answer that breaks a promise."""

    def __init__(self, loop: asyncio.AbstractEventLoop, addresses: dict[str, str]) -> None:
        self._loop = loop
        self._addresses = addresses
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.cluster: Any = None
        self.announced = Announced()
        self.complaints = Complaints()
        self.codes: Counter[str] = Counter()

    def ask(self, rpc: Rpc, *sent: bytes) -> None:
        """One call with one request; of a stream, with its items."""
        self.ask_together(rpc, [sent])

    def ask_together(self, rpc: Rpc, calls: Sequence[Sequence[bytes]]) -> None:
        """Several calls at the same time."""
        self.complaints.lines.clear()
        asked = [self._ask_items(rpc, sent) if rpc.streams else self._ask(rpc, sent[0])
                 for sent in calls]  # fmt: skip
        self._loop.run_until_complete(_all(asked))
        said = self.complaints.lines
        assert not said, f"{rpc.name} logged {said[0]} for one of {_shown(calls)}"

    async def _ask(self, rpc: Rpc, sent: bytes) -> None:
        call = self._channel(rpc).unary_unary(rpc.method, None, rpc.response.FromString)
        try:
            async with asyncio.timeout(2 * HANG_S):
                answer = await call(sent, timeout=HANG_S)
        except grpc.aio.AioRpcError as failure:
            self._judge(rpc, failure, sent)
            return
        self.codes["OK"] += 1
        _checked(rpc, sent, answer)

    async def _ask_items(self, rpc: Rpc, sent: Sequence[bytes]) -> None:
        call = self._channel(rpc).stream_stream(rpc.method, None, rpc.response.FromString)
        answers: list[Any] = []
        try:
            async with asyncio.timeout(2 * HANG_S):
                async for answer in call(iter(sent), timeout=HANG_S):
                    answers.append(answer)  # noqa: PERF401 -- what came before a failure counts
        except grpc.aio.AioRpcError as failure:
            self._judge(rpc, failure, *sent)
            return
        assert len(answers) == len(sent), f"{len(answers)} answers to {_shown([sent])}"
        items = [_parsed(rpc, item) for item in sent]
        n_asked = Counter(item.item_id for item in items)
        assert Counter(answer.item_id for answer in answers) == n_asked, _shown([sent])
        for answer in answers:
            if answer.WhichOneof("outcome") == "status":
                code = from_status(answer.status).code
                in_a_hurry = any(1 <= item.timeout_ms < HURRY_MS for item in items)
                allowed = rpc.item_codes | (HURRIED if in_a_hurry else frozenset())
                assert code in allowed, f"{code}: {answer.status.message}: {_shown([sent])}"
                self.codes[f"item {code.name}"] += 1
            else:
                self.codes["item OK"] += 1
            if n_asked[answer.item_id] == 1:  # else nobody can tell which of them it answers
                rpc.check(next(i for i in items if i.item_id == answer.item_id), answer)

    def _judge(self, rpc: Rpc, failure: grpc.aio.AioRpcError, *sent: bytes) -> None:
        code, told = failure.code(), failure.details() or ""
        too_large = sum(map(len, sent)) > MAX_MESSAGE_BYTES
        allowed = rpc.codes | ({grpc.StatusCode.RESOURCE_EXHAUSTED} if too_large else set())
        assert code in allowed - {OK}, f"{rpc.name}: {code.name}: {told}: {_shown([sent])}"
        assert told, f"{code.name} without a word: {_shown([sent])}"
        assert "Traceback" not in told
        assert error_of(failure).code is code
        self.codes[code.name] += 1

    def _channel(self, rpc: Rpc) -> grpc.aio.Channel:
        address = self._addresses.get(rpc.name) or self._addresses[rpc.service]
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return self._channels[address]

    def mend(self, rpc: Rpc) -> None:
        """Both versions of the shard's index open again, nobody announced, whatever was asked."""
        if rpc.name == "Announce":
            self.announced.forget()
        if rpc.name in {"LoadVersion", "ReleaseVersion"}:
            self._loop.run_until_complete(self._load_both())

    async def _load_both(self) -> None:
        address = self._addresses["shoal.internal.v1.ShardService"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = shard_pb2_grpc.ShardServiceStub(channel)
            for version in (1, 2):
                request = shard_pb2.LoadVersionRequest(index=tiny.NAME, version=version)
                await stub.LoadVersion(request, timeout=60)

    @contextlib.contextmanager
    def nothing_grows(self, within_s: float = 60.0) -> Iterator[None]:
        """Tasks, descriptors and the objects of our own modules are after it what they were."""
        before = self._census()
        yield
        # what was cut off is taken down by tasks of its own, which get the time for it
        for _ in range(1 + round(within_s / 0.05)):
            now = self._census()
            grown = {
                name: f"{before[name]} to {n}"
                for name, n in now.items()
                if n > before[name] + (_SLACK if "." in name else 8)
            }
            if not grown:
                return
            self._loop.run_until_complete(asyncio.sleep(0.05))
        raise AssertionError(f"grown: {grown}")

    def _census(self) -> Counter[str]:
        gc.collect()
        found: Counter[str] = Counter()
        for kind, n_objects in Counter(map(type, gc.get_objects())).items():
            if str(kind.__module__).partition(".")[0] in _OURS:
                found[f"{kind.__module__}.{kind.__name__}"] += n_objects
        found["tasks"] = len(asyncio.all_tasks(self._loop))
        found["fds"] = len(list(Path("/proc/self/fd").iterdir()))
        found["under way"] = self.cluster.n_under_way + self.cluster.admission.n_queries
        return found


@contextlib.contextmanager
def open_doors(folder: Path) -> Iterator[Doors]:
    """Starts every service; ends them all."""
    build_index(folder / "index", tiny.passages(range(320)), tiny.GivenVectors(),
                tiny.options("IVF8,SQ8"))  # fmt: skip
    add_passages(folder / "index", tiny.passages(range(310, 360), edition=1), tiny.GivenVectors(),
                 replace_known=True)  # fmt: skip
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # grpc.aio asks for it where a channel is made
    opened = _serving(loop, folder)
    try:
        doors = loop.run_until_complete(anext(opened))
        logging.getLogger().addHandler(doors.complaints)
        yield doors
        logging.getLogger().removeHandler(doors.complaints)
    finally:
        with contextlib.suppress(StopAsyncIteration):
            loop.run_until_complete(anext(opened))
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


async def _serving(loop: asyncio.AbstractEventLoop, folder: Path) -> AsyncIterator[Doors]:
    shard = ShardServicer(ShardConfig(index=str(folder / "index"), shard=0, device="cpu"))
    encoder = EncoderService(EncoderConfig(model="stub", cache_entries=64))
    with _stub_model():
        await encoder.load()
    await shard.start()
    add_shard = shard_pb2_grpc.add_ShardServiceServicer_to_server
    add_admin, announced = admin_pb2_grpc.add_AdminServiceServicer_to_server, Announced()
    add_encoder = encoder_pb2_grpc.add_EncoderServiceServicer_to_server
    async with (
        # nothing runs between two questions, and a check would find a replica that doesn't answer
        running(folder, check_s=3_600, check_timeout_s=60, canary_s=3_600) as cluster,
        _served(add_shard, shard) as shard_address,
        _served(add_encoder, encoder) as encoder_address,
        _served(add_admin, _announcing(announced)) as announcing_address,
    ):
        addresses = {
            "shoal.v1.SearchService": cluster.address,
            "shoal.internal.v1.AdminService": cluster.address,
            "shoal.internal.v1.ShardService": shard_address,
            "shoal.v1.EncoderService": encoder_address,
            "Announce": announcing_address,
        }
        doors = Doors(loop, addresses)
        doors.cluster = cluster
        doors.announced = announced
        await doors._load_both()
        yield doors
        for channel in doors._channels.values():
            await channel.close()
    await encoder.close()
    await shard.stop()


def _announcing(announced: Announced) -> AdminServicer:
    registry: Any = announced
    reloader = Reloader(registry, release_after_s=0.0)
    return AdminServicer(registry, reloader, announced.source)


@contextlib.asynccontextmanager
async def _served(add: Any, servicer: Any) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(1.0)


@contextlib.contextmanager
def _stub_model() -> Iterator[None]:
    """The encoder service loads a model that needs no torch."""
    from encoder_service import service

    real, service._load = service._load, lambda config: tiny.StubModel()
    try:
        yield
    finally:
        service._load = real


async def _all(asked: Sequence[Any]) -> None:
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _parsed(rpc: Rpc, sent: bytes) -> Message:
    message = rpc.request()
    message.ParseFromString(sent)
    return message


def _checked(rpc: Rpc, sent: bytes, answer: Message) -> None:
    try:
        rpc.check(_parsed(rpc, sent), answer)
    except AssertionError as wrong:
        raise AssertionError(f"{rpc.name}: {wrong}: {_shown([[sent]])}") from wrong


def _shown(calls: Sequence[Sequence[bytes]]) -> str:
    return "; ".join(data.hex()[:2_000] for sent in calls for data in sent)
