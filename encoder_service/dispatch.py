"""The encoder's queue: permits, tokenizing, batches, and the way back to each caller.

    admit -> tokenize (thread) -> wait -> forward (thread) -> rejoin

Everything is decided on the event loop; only tokenizing and passes leave it. When a thread is idle
its next piece starts at once with whatever waits: no timer, no fixed delay. On a CPU what waits is
spread over one-core passes side by side, which lose least where other processes want the cores too;
a little work that is alone gets all cores for one pass.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoder_service.admission import DEFAULT_WAIT_S, Permits
from encoder_service.batching import BatchCost, Priority, next_batch, spread
from encoder_service.calls import Call, Encoded, Item
from encoder_service.roles import Role
from encoder_service.traces import tell_pass, tell_waits
from shoal.errors import DeadlineExceededError, OverloadedError
from shoal.rpc import metrics
from shoal.tracing.spans import current_trace

if TYPE_CHECKING:  # torch comes with it, seconds after the process has its address
    from encoder_service.model import DualEncoder

Vectors = npt.NDArray[np.float32]

_CHUNK_TEXTS = 128  # tokenized at once: some 5 ms, so that an urgent text doesn't wait long
_CHUNK_CHARS = 256 * 1024
_LITTLE_TOKENS = 128  # below this one pass on all cores ends before passes side by side do
_SPREAD_TEXTS = 256  # more than fill the idle cores, however many wait


class EncodeQueue:
    """Shares one encoder among concurrent calls, on one event loop; `close()` ends its threads."""

    def __init__(
        self,
        encoder: "DualEncoder",
        *,
        max_queued_texts: int,
        max_batch_tokens: int = 0,
        max_wait_s: float = DEFAULT_WAIT_S,
    ) -> None:
        self._encoder = encoder
        self._permits = Permits(max_queued_texts, wait_s=max_wait_s)
        self._cost = _limited(encoder.cost, max_batch_tokens)
        self._stream_cost = _limited(encoder.stream_cost, max_batch_tokens)
        shares = encoder.shares_network()
        self._lanes = {Role.QUERY: 0, Role.PASSAGE: 0 if shares else 1}
        self._loop = asyncio.get_running_loop()
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._forward = ThreadPoolExecutor(encoder.n_streams, thread_name_prefix="forward")
        self._untokenized: dict[Priority, list[Call]] = {priority: [] for priority in Priority}
        self._waiting: list[Item] = []
        self._tokenizing = False
        self._n_passes = 0
        self._depth = metrics.QUEUE_DEPTH.labels("encoder")
        permits = self._permits  # not self: it would keep the model of a queue that was closed
        metrics.IN_FLIGHT.labels("encoder").set_function(lambda: permits.n_texts)
        self._refused = metrics.refused_by("encoder")
        self._sizes = metrics.BATCH_SIZE.labels("encoder")

    async def encode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        titles: Sequence[str] | None,
        priority: Priority,
        deadline_s: float,
    ) -> Encoded:
        """Encodes a call's texts in whatever batches they fall into.

        Args:
            texts: at least one.
            role: the tower.
            titles: none, or as many as texts.
            priority: the class of its texts.
            deadline_s: on `time.monotonic()`.

        Raises:
            OverloadedError: too many texts wait already, or they would wait too long.
            DeadlineExceededError: the deadline passed first.
        """
        try:
            permit = self._permits.take(texts, priority, deadline_s)
        except OverloadedError:
            self._refused[priority is Priority.BULK].inc(len(texts))
            raise
        call = Call(
            texts=texts,
            titles=titles,
            role=role,
            priority=priority,
            lane=self._lanes[role],
            permit=permit,
            deadline_s=deadline_s,
            answer=self._loop.create_future(),
            vectors=np.empty((len(texts), self._encoder.tower(role).dim), dtype=np.float32),
            truncated=[False] * len(texts),
            n_left=len(texts),
            begun_s=time.monotonic(),
            trace=current_trace(),
        )
        self._untokenized[priority].append(call)
        self._start_tokenizing()
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await call.answer
        except TimeoutError as failure:
            raise DeadlineExceededError(
                "the deadline passed before the texts were encoded"
            ) from failure
        finally:
            call.cancelled = call.n_left > 0
            self._permits.give_back(permit)
            if call.trace is not None:
                tell_waits(call.trace, call)
        metrics.QUERIES.inc(len(texts))
        return Encoded(
            vectors=call.vectors,
            truncated=call.truncated,
            queue_ms=call.queue_s * 1e3,
            tokenize_ms=call.tokenize_s * 1e3,
            forward_ms=call.forward_s * 1e3,
        )

    def close(self) -> None:
        """Ends the threads when they have done what they are at."""
        self._tokenizer.shutdown(wait=True, cancel_futures=True)
        self._forward.shutdown(wait=True, cancel_futures=True)

    # tokenizing

    def _start_tokenizing(self) -> None:
        if self._tokenizing:
            return
        pieces = self._next_chunk()
        if pieces:
            self._tokenizing = True
            self._submit(self._tokenizer, self._tokenize, self._tokenized, pieces)

    def _next_chunk(self) -> list[tuple[Call, int, int]]:
        """Rows of calls to tokenize next, interactive calls first; those that left are dropped."""
        now_s = time.monotonic()
        pieces: list[tuple[Call, int, int]] = []
        n_texts = n_chars = 0
        for calls in self._untokenized.values():
            while calls and n_texts < _CHUNK_TEXTS and n_chars < _CHUNK_CHARS:
                call = calls[0]
                first = call.n_sent
                if not call.cancelled and call.deadline_s > now_s:
                    while (
                        call.n_sent < len(call.texts)
                        and n_texts < _CHUNK_TEXTS
                        and n_chars < _CHUNK_CHARS
                    ):
                        n_chars += len(call.texts[call.n_sent])
                        n_texts += 1
                        call.n_sent += 1
                    pieces.append((call, first, call.n_sent))
                    if call.n_sent < len(call.texts):
                        break
                calls.pop(0)
            if pieces:
                break
        return pieces

    def _tokenize(self, pieces: list[tuple[Call, int, int]]) -> tuple[list[Item], float]:
        begun_s = time.monotonic()
        items = []
        for call, first, end in pieces:
            titles = call.titles[first:end] if call.titles else None
            tokenized = self._encoder.tokenize(call.texts[first:end], call.role, titles)
            items += [Item(call, row, text, text.n_tokens)
                      for row, text in enumerate(tokenized, first)]  # fmt: skip
        return items, time.monotonic() - begun_s

    def _tokenized(self, pieces: list[tuple[Call, int, int]], outcome: Any) -> None:
        self._tokenizing = False
        if isinstance(outcome, BaseException):
            self._fail([call for call, _, _ in pieces], outcome)
        else:
            items, seconds = outcome
            for call, _, _ in pieces:
                call.tokenize_s += seconds
            self._waiting += items
            self._start_passes()
        self._start_tokenizing()

    # forward passes

    def _start_passes(self) -> None:
        """Gives every idle thread a batch, as long as something waits."""
        while self._waiting and self._n_passes < self._encoder.n_streams:
            one_core, cost = self._next_pass()
            now_s = time.monotonic()
            choice = next_batch(self._waiting, now_s=now_s, cost=cost)
            batch = [self._waiting[position] for position in choice.batch]
            gone = {*choice.batch, *choice.dropped}
            self._waiting = [item for i, item in enumerate(self._waiting) if i not in gone]
            if not batch:
                break
            for item in batch:
                call = item.call
                call.queue_s = max(call.queue_s, now_s - call.begun_s - call.tokenize_s)
            self._n_passes += 1
            work = self._run_on_one_core if one_core else self._run_on_all
            self._submit(self._forward, work, self._passed, batch)
        self._depth.set(len(self._waiting))

    def _next_pass(self) -> tuple[bool, BatchCost]:
        """Whether the next pass takes one core, and its budget."""
        n_idle = self._encoder.n_streams - self._n_passes
        n_tokens = sum(item.n_tokens for item in self._waiting[:_SPREAD_TEXTS])
        is_little = len(self._waiting) == 1 or n_tokens <= _LITTLE_TOKENS
        if self._encoder.n_streams == 1 or (self._n_passes == 0 and is_little):
            return False, self._cost
        return True, spread(n_tokens, n_idle=n_idle, cost=self._stream_cost)

    def _run_on_all(self, batch: list[Item]) -> tuple[Vectors, float]:
        return self._run_pass(batch, one_core=False)

    def _run_on_one_core(self, batch: list[Item]) -> tuple[Vectors, float]:
        return self._run_pass(batch, one_core=True)

    def _run_pass(self, batch: list[Item], *, one_core: bool) -> tuple[Vectors, float]:
        begun_s = time.monotonic()
        tokenized = [item.tokenized for item in batch]
        vectors = self._encoder.forward(tokenized, batch[0].call.role, one_core=one_core)
        return vectors, time.monotonic() - begun_s

    def _passed(self, batch: list[Item], outcome: Any) -> None:
        self._n_passes -= 1
        self._start_passes()  # the thread is busy again before anybody is answered
        if isinstance(outcome, BaseException):
            self._fail([item.call for item in batch], outcome)
            return
        vectors, seconds = outcome
        for position, item in enumerate(batch):
            call = item.call
            call.vectors[item.row] = vectors[position]
            call.truncated[item.row] = item.tokenized.truncated
            call.forward_s = max(call.forward_s, seconds)
            call.n_left -= 1
            self._permits.encoded(call.permit)
            if not call.n_left and not call.answer.done():
                call.answer.set_result(None)
        tell_pass(batch, seconds)
        self._sizes.observe(len(batch))
        metrics.ENCODER_TOKENS.inc(sum(item.n_tokens for item in batch))

    # both

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[Any], Any],
        done: Callable[[Any, Any], None],
        what: Any,
    ) -> None:
        """Runs `work(what)` on the pool's thread, then `done(what, outcome)` on the loop."""

        def run() -> None:
            outcome: Any
            try:
                outcome = work(what)
            except BaseException as failure:  # noqa: BLE001 -- becomes the callers' failure
                outcome = failure
            self._loop.call_soon_threadsafe(done, what, outcome)

        pool.submit(run)

    @staticmethod
    def _fail(calls: Sequence[Call], failure: BaseException) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(failure)


def _limited(cost: BatchCost, max_tokens: int) -> BatchCost:
    """The cost with the operator's budget, where one is set."""
    return BatchCost(max_tokens=max_tokens or cost.max_tokens, pass_tokens=cost.pass_tokens)
