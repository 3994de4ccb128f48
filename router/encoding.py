"""Questions to vectors, through an encoder that is the index's own."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np

from router.batching import text_cost
from router.encoder_client import Encoded
from router.encoder_replica import EncoderReplica
from router.query import SearchQuery
from router.replicas import choose_replica
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.rpc.deadline import Deadline
from shoal.v1 import priority_pb2

_NONE_TRUNCATED = frozenset[int]()


async def encode(
    query: SearchQuery,
    encoders: Sequence[EncoderReplica],
    deadline: Deadline,
    rng: random.Random,
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
    encoded = await _ask(query, encoders, deadline, rng)
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


async def _ask(
    query: SearchQuery,
    encoders: Sequence[EncoderReplica],
    deadline: Deadline,
    rng: random.Random,
) -> Encoded:
    fingerprint = query.index.question_fingerprint
    matching = [e for e in encoders if e.question_fingerprint == fingerprint]
    failure: ShoalError = _nobody(query, encoders)
    tried: list[EncoderReplica] = []
    while (encoder := choose_replica(matching, tried, rng=rng)) is not None:
        tried.append(encoder)
        answer = encoder.lane.submit(
            (fingerprint, query.priority, query.texts),
            key=(fingerprint, query.priority),
            cost=text_cost(query.texts),
            n_items=len(query.texts),
            is_bulk=query.priority == priority_pb2.PRIORITY_BULK,
            deadline=deadline,
        )
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await answer
        except TimeoutError as late:
            raise DeadlineExceededError("the encoder did not answer by the deadline") from late
        except (UnavailableError, CancelledError) as unreachable:
            failure = UnavailableError(f"the encoder failed: {unreachable.message}")
        except OverloadedError as full:
            failure = full
    raise failure


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
