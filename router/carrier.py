"""Carries a round's actions out: calls, cancellations and timers on the event loop.

Decides nothing: what an event means is `round`'s business. When `run` ends, however it ends, no
call that it made is under way.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from router.calls import Action, Ask, Attempt, Drop, Failure, Judge, Kind
from router.outcomes import another_may_help, outcome_of
from router.replicas import Loaded
from router.round import Round
from router.standing import Standing
from router.traces import close_call, open_call
from shoal.errors import CancelledError
from shoal.tracing.spans import Span


class Judged(Loaded, Protocol):
    """A replica that hears how it did."""

    @property
    def address(self) -> str:
        """host:port, for a trace."""
        ...

    @property
    def standing(self) -> Standing:
        """Whether it is used."""
        ...

    def judge(self, *, since_s: float, well: bool, spare: bool) -> None:
        """It answered well and in time, or not; `spare`: a sibling does better."""
        ...

    def suspect(self) -> None:
        """It had better be checked at once."""
        ...


ReplicaT = TypeVar("ReplicaT", bound=Judged)
Reply = TypeVar("Reply")


class Carrier(Generic[ReplicaT, Reply]):
    """One round under way."""

    def __init__(
        self,
        round_: Round[ReplicaT],
        ask: Callable[[ReplicaT, int, Span | None], "asyncio.Future[Reply]"],
        *,
        on_extra: Callable[[Kind], None],
        stage: Span | None = None,
    ) -> None:
        """`ask` puts the question for a shard to a replica; `on_extra` hears of retries, hedges.

        Where the search is traced, `stage` is the span that each call's is a child of, and `ask`
        gets the call's.
        """
        self._round = round_
        self._ask = ask
        self._on_extra = on_extra
        self._stage = stage
        self._calls: dict[Attempt[ReplicaT], asyncio.Future[Reply]] = {}
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = 0.0
        self.replies: dict[int, Reply] = {}
        self.latencies_s: dict[int, float] = {}
        """How long the reply that won took, from its own call on."""
        self.causes: dict[int, BaseException] = {}
        """The last failure by shard."""

    async def run(self) -> None:
        """Returns when every shard has answered or was given up."""
        try:
            now_s = time.monotonic()
            self._carry_out(self._round.begin(now_s), now_s)
            if not self._round.done:
                await self._finished
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            calls, self._calls = self._calls, {}
            for call in calls.values():
                call.cancel()

    def _carry_out(self, actions: list[Action[ReplicaT]], now_s: float) -> None:
        for action in actions:
            if isinstance(action, Ask):
                self._start(action.attempt)
            elif isinstance(action, Drop):
                dropped = self._calls.pop(action.attempt, None)
                if dropped is not None:
                    dropped.cancel()
            elif isinstance(action, Judge):
                action.replica.judge(since_s=action.since_s, well=action.well, spare=action.spare)
            else:
                action.replica.suspect()
        if self._round.done:
            if not self._finished.done():
                self._finished.set_result(None)
        elif self._alarm is None or self._round.wake_s < self._alarm_s:
            self._set_alarm(now_s)

    def _start(self, attempt: Attempt[ReplicaT]) -> None:
        if attempt.kind is not Kind.FIRST:
            self._on_extra(attempt.kind)
        if self._stage is None:
            call = self._ask(attempt.replica, attempt.shard, None)
        else:
            call = self._ask_traced(attempt, self._stage)
        self._calls[attempt] = call
        call.add_done_callback(lambda ended: self._on_end(attempt, ended))

    def _ask_traced(self, attempt: Attempt[ReplicaT], stage: Span) -> "asyncio.Future[Reply]":
        replica, shard = attempt.replica, attempt.shard
        span = open_call(stage, replica.address, shard, attempt.kind, attempt.since_s)
        call = self._ask(replica, shard, span)
        call.add_done_callback(lambda ended: close_call(span, ended))
        return call

    def _on_end(self, attempt: Attempt[ReplicaT], call: "asyncio.Future[Reply]") -> None:
        if self._calls.pop(attempt, None) is None:
            return  # dropped, or the round is over
        try:
            now_s = time.monotonic()
            # nobody here cancelled it: it is a failure like any other, and may be asked again
            failure = (
                CancelledError("the call was cancelled") if call.cancelled() else (call.exception())
            )
            if failure is None:
                self.replies[attempt.shard] = call.result()
                self.latencies_s[attempt.shard] = now_s - attempt.since_s
                actions = self._round.replied(attempt, now_s)
            else:
                self.causes[attempt.shard] = failure
                told = Failure(outcome_of(failure), another_may_help(failure))
                actions = self._round.failed(attempt, told, now_s)
            self._carry_out(actions, now_s)
        except Exception as fault:  # noqa: BLE001 -- a bug of ours ends the round, and must not hang it
            self._fail(fault)

    def _set_alarm(self, now_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = self._round.wake_s
        loop = asyncio.get_running_loop()
        # the loop's timers are of a millisecond, and may be early by it
        self._alarm = loop.call_later(max(0.001, self._alarm_s - now_s), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        try:
            now_s = time.monotonic()
            self._carry_out(self._round.tick(now_s), now_s)
        except Exception as fault:  # noqa: BLE001 -- as above
            self._fail(fault)

    def _fail(self, fault: Exception) -> None:
        if not self._finished.done():
            self._finished.set_exception(fault)
