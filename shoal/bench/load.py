"""A load run over gRPC: the plan's requests through several connections, in a process of its own.

A generator that shares a process with what it measures measures their struggle for one
interpreter; so `run_load` starts `python -m shoal.bench`: a plan on stdin, a report on stdout.
"""

import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc

from shoal.bench.drive import OK, Call, Reply, Send, closed_loop, open_loop
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.child_environment import import_environment
from shoal.errors import InternalError, InvalidArgumentError
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

_METHOD = "/shoal.v1.SearchService/Search"
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}


def run_load(plan: LoadPlan) -> LoadReport:
    """Runs `plan` in a process of its own and returns what it saw.

    Raises:
        InvalidArgumentError: the plan's queries can't be read or sent.
    """
    done = subprocess.run(
        [sys.executable, "-m", "shoal.bench"],
        input=plan.to_json(),
        capture_output=True,
        text=True,
        timeout=plan.warmup_s + plan.duration_s + plan.timeout_s + 60,
        check=False,
        env={**os.environ, **import_environment()},
    )
    if done.returncode == InvalidArgumentError.exit_code:
        raise InvalidArgumentError(done.stderr.strip())
    if done.returncode != 0:
        raise InternalError(f"the load generator failed: {done.stderr.strip()[-500:]}")
    return LoadReport.from_dict(json.loads(done.stdout))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What answered before the run: "" and 0 where nothing did. A reload moves the version."""

    index: str = ""
    version: int = 0


def _channel(plan: LoadPlan) -> grpc.aio.Channel:
    """As the client's: several routers share the load."""
    return open_channel(plan.target, plan.credentials, balanced=_METHOD.split("/")[1])


async def refuse_bad_plan(plan: LoadPlan) -> Served:
    """Makes one call of the plan: what the server refuses for good it would refuse every time.

    Raises:
        ShoalError: the refusal; failures that may pass are the run's to count.
    """
    async with _channel(plan) as channel:
        method: Any = channel.unary_unary(_METHOD, None, pb.SearchResponse.FromString)
        try:
            answer = await method(
                plan.requests()[0],
                timeout=plan.timeout_s,
                metadata=plan.credentials.metadata,
            )
        except grpc.RpcError as failure:
            if failure.code() in _REFUSALS:
                raise error_of(failure) from failure
            return Served()
    return Served(index=answer.index, version=answer.version)


async def measure(plan: LoadPlan) -> LoadReport:
    """Runs `plan` here; for a process that does nothing else."""
    requests = plan.requests()
    total_s = plan.warmup_s + plan.duration_s
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(_channel(plan)) for _ in range(plan.connections)
        ]
        send = _sender(requests, channels, plan)
        calls: list[Call]
        if plan.rate is not None:
            calls = await open_loop(send, rate=plan.rate, total_s=total_s)
        else:
            assert plan.clients is not None
            calls = await closed_loop(send, clients=plan.clients, total_s=total_s)
    return summarize(
        calls,
        warmup_s=plan.warmup_s,
        duration_s=plan.duration_s,
        rate=plan.rate,
        clients=plan.clients,
        batch=plan.batch,
        connections=plan.connections,
    )


def _sender(requests: list[bytes], channels: list[grpc.aio.Channel], plan: LoadPlan) -> Send:
    # requests travel as the bytes they are; answers are parsed, as any client must
    methods: list[Any] = [
        channel.unary_unary(_METHOD, None, pb.SearchResponse.FromString) for channel in channels
    ]

    async def send(i: int) -> Reply:
        try:
            response = await methods[i % len(methods)](
                requests[i % len(requests)],
                timeout=plan.timeout_s,
                metadata=plan.credentials.metadata,
            )
        except grpc.RpcError as failure:
            code: grpc.StatusCode = failure.code()
            return Reply(code=code.name)
        return Reply(code=OK, degraded=response.coverage < 1.0)

    return send
