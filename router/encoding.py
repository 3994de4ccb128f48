"""Questions to vectors, through an encoder that is the index's own."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np

from router.batching import text_cost
from router.calls import Budgets, Plan
from router.carrier import Carrier
from router.config import RouterConfig
from router.encoder_client import Encoded
from router.encoder_replica import EncoderReplica
from router.outcomes import Outcome
from router.query import SearchQuery
from router.round import Round
from router.traces import ENCODE, stage_of
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    UnavailableError,
)
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline
from shoal.tracing.spans import Span

_NONE_TRUNCATED = frozenset[int]()
_RETRIES = metrics.RETRIES.labels("encoder")


class EncoderCalls:
    """Asks one of several encoders, and another where that fails, within a budget."""

    def __init__(self, rng: random.Random, config: RouterConfig) -> None:
        self._rng = rng
        self._budgets = Budgets.of(config)

    async def encode(
        self, query: SearchQuery, encoders: Sequence[EncoderReplica], deadline: Deadline
    ) -> Encoded:
        """The vectors of a query's texts; errors as `encode`."""
        fingerprint = query.index.question_fingerprint
        matching = [e for e in encoders if e.question_fingerprint == fingerprint]
        if not any(e.usable for e in matching):
            raise _nobody(query, encoders)

        def submit(
            encoder: EncoderReplica, _shard: int, span: Span | None
        ) -> "asyncio.Future[Encoded]":
            return encoder.lane.submit(
                (fingerprint, query.priority, query.texts),
                key=(fingerprint, query.priority),
                cost=text_cost(query.texts),
                n_items=len(query.texts),
                is_bulk=query.is_bulk,
                deadline=deadline,
                span=span,
            )

        round_ = Round(Plan(shards={0: matching}, until_s=deadline.at_s), self._budgets, self._rng)
        carrier = Carrier(
            round_, submit, on_extra=lambda _kind: _RETRIES.inc(), stage=stage_of(ENCODE)
        )
        await carrier.run()
        if not round_.given_up:
            return carrier.replies[0]
        failure = carrier.causes.get(0)
        if failure is None or round_.given_up[0].outcome is Outcome.LATE:
            raise DeadlineExceededError("the encoder did not answer by the deadline")
        if isinstance(failure, UnavailableError | CancelledError):
            raise UnavailableError(f"the encoder failed: {failure.message}")
        raise failure


async def encode(
    query: SearchQuery,
    encoders: Sequence[EncoderReplica],
    deadline: Deadline,
    calls: EncoderCalls,
) -> tuple[np.ndarray, frozenset[int]]:
    """All vectors of a query, float32 (n_queries, dim), and the places of texts that were cut.

    Raises:
        FailedPreconditionError: the encoders that can be reached are not the index's.
        UnavailableError: none can be reached.
        OverloadedError: those that can be reached are full.
        DeadlineExceededError: the vectors did not come in time.
    """
    if not query.texts:
        return query.vectors, _NONE_TRUNCATED
    encoded = await calls.encode(query, encoders, deadline)
    dim = encoded.query_vectors.shape[1]
    if dim != query.index.dim:
        raise FailedPreconditionError(
            f"the encoder's vectors have {dim} dimensions, index {query.index.name} has "
            f"{query.index.dim}"
        )
    cut = zip(query.text_places, encoded.truncated, strict=True)
    truncated = frozenset(place for place, is_cut in cut if is_cut)
    if not query.vector_places:
        return encoded.query_vectors, truncated
    matrix = np.empty((query.n_queries, query.index.dim), dtype=np.float32)
    matrix[list(query.text_places)] = encoded.query_vectors
    matrix[list(query.vector_places)] = query.vectors
    return matrix, truncated


def _nobody(
    query: SearchQuery, encoders: Sequence[EncoderReplica]
) -> FailedPreconditionError | UnavailableError:
    """Why there is no encoder to ask."""
    index = query.index
    disproved = [e for e in encoders if e.disproof]
    if disproved and not any(e.usable for e in encoders):
        first = disproved[0]
        return FailedPreconditionError(
            f"encoder {first.address} {first.disproof}; start it again, or send vectors"
        )
    served = [e.question_fingerprint for e in encoders if e.usable]
    if served and index.question_fingerprint not in served:
        return FailedPreconditionError(
            f"index {index.name} was built by encoder {index.question_fingerprint[:12]} "
            f"({index.encoder_model}), but {served[0][:12]} is served; start the encoder that "
            "built it, or send vectors"
        )
    return UnavailableError("no encoder can be reached; searching by vector still works")
