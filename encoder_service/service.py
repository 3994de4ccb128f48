"""EncoderService: convert, encode, convert. Refuses what is wrong before any work is done."""

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import numpy as np

import shoal
from encoder_service.batching import Priority
from encoder_service.cache import CachedQuery, QueryCache
from encoder_service.calls import Encoded
from encoder_service.config import EncoderConfig
from encoder_service.dispatch import EncodeQueue
from encoder_service.request import MAX_TEXT_BYTES, MAX_TEXTS, EncodeCall, read_request
from encoder_service.roles import Role
from encoder_service.source import find_model
from shoal import contract, vectors
from shoal.errors import FailedPreconditionError, UnavailableError
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline
from shoal.rpc.gpu_memory import watch_gpu
from shoal.rpc.request_id import current_request_id
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc

if TYPE_CHECKING:
    from encoder_service.model import DualEncoder

# quoted: grpc's classes are generic for the type checker alone
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

FEATURES = ("titles",)
_HITS, _MISSES = (metrics.ENCODER_CACHE.labels(result) for result in metrics.CACHE_RESULTS)
_STAGES = {stage: metrics.STAGE_SECONDS.labels(stage) for stage in
           ("encoder_queue", "tokenize", "forward")}  # fmt: skip


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves one dual encoder, once `load` has it."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._encoder: DualEncoder | None = None
        self._queue: EncodeQueue | None = None
        self._cache = QueryCache(config.cache_entries)

    async def load(self) -> None:
        """Loads the model, off the loop, and warms it up; health says SERVING after this."""
        config = self._config
        encoder = await asyncio.to_thread(_load, config)
        self._queue = EncodeQueue(
            encoder,
            max_queued_texts=config.max_queued_texts,
            max_batch_tokens=config.max_batch_tokens,
            max_wait_s=config.max_wait_s,
        )
        self._encoder = encoder
        watch_gpu(encoder.device)

    async def close(self) -> None:
        """Ends the queue's threads."""
        if self._queue is not None:
            await asyncio.to_thread(self._queue.close)

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Vectors of many texts; row i is text i."""
        call = read_request(request)
        encoder, queue = self._loaded()
        fingerprint = _agreed_fingerprint(encoder, call)
        encoded = await self._encode(queue, call, Deadline.of(context))
        return _to_response(encoded, fingerprint)

    async def GetEncoder(
        self,
        request: pb.GetEncoderRequest,  # noqa: ARG002 -- gRPC's signature
        context: Context,  # noqa: ARG002
    ) -> pb.GetEncoderResponse:
        """Which encoder is served."""
        encoder, _ = self._loaded()
        return pb.GetEncoderResponse(
            model=encoder.name,
            contract=contract.to_proto(encoder.contract, probes=True),
            max_texts=MAX_TEXTS,
            max_text_bytes=MAX_TEXT_BYTES,
            device=encoder.device,
            backend=encoder.backend,
            dtype=encoder.dtype,
            release=shoal.__version__,
            features=FEATURES,
        )

    def _loaded(self) -> "tuple[DualEncoder, EncodeQueue]":
        if self._encoder is None or self._queue is None:
            raise UnavailableError(f"model {self._config.model} is still loading; try again")
        return self._encoder, self._queue

    async def _encode(self, queue: EncodeQueue, call: EncodeCall, deadline: Deadline) -> Encoded:
        """Through the cache where it may hold answers; only what it lacks is encoded.

        Bulk questions pass it by: they would wash out what people ask, and a router's canary wants
        vectors that were computed now.
        """
        skips_cache = call.role is not Role.QUERY or call.priority is Priority.BULK
        if skips_cache or call.titles or not self._config.cache_entries:
            return await _run(queue, call, call.texts, deadline)
        known = {row: entry for row, text in enumerate(call.texts)
                 if (entry := self._cache.get(text)) is not None}  # fmt: skip
        missing = [row for row in range(len(call.texts)) if row not in known]
        _HITS.inc(len(known))
        _MISSES.inc(len(missing))
        if not known:
            encoded = await _run(queue, call, call.texts, deadline)
        elif missing:
            texts = [call.texts[row] for row in missing]
            encoded = _joined(known, missing, await _run(queue, call, texts, deadline))
        else:
            encoded = _joined(known, missing, None)
        for row in missing:
            entry = CachedQuery(vector=encoded.vectors[row], truncated=encoded.truncated[row])
            self._cache.put(call.texts[row], entry)
        return encoded


def _load(config: EncoderConfig) -> "DualEncoder":
    find_model(config.model)  # a wrong name is told in a moment, before torch is imported
    from encoder_service.model import load_encoder  # noqa: PLC0415 -- five seconds of imports

    return load_encoder(
        config.model,
        device=config.device,
        backend=config.backend,
        dtype=config.dtype,
        query_prompt=config.query_prompt,
        passage_prompt=config.passage_prompt,
        n_threads=config.n_threads,
    )


async def _run(
    queue: EncodeQueue, call: EncodeCall, texts: list[str], deadline: Deadline
) -> Encoded:
    encoded = await queue.encode(texts, call.role, titles=call.titles, priority=call.priority,
                                 deadline_s=deadline.at_s)  # fmt: skip
    _STAGES["encoder_queue"].observe(encoded.queue_ms / 1e3)
    _STAGES["tokenize"].observe(encoded.tokenize_ms / 1e3)
    _STAGES["forward"].observe(encoded.forward_ms / 1e3)
    return encoded


def _joined(known: dict[int, CachedQuery], missing: list[int], encoded: Encoded | None) -> Encoded:
    """Cached rows and fresh ones (row i of `encoded` is row missing[i]) in the call's order."""
    n_rows = len(known) + len(missing)
    first = encoded.vectors[0] if encoded is not None else next(iter(known.values())).vector
    matrix = np.empty((n_rows, first.shape[0]), dtype=np.float32)
    truncated = [False] * n_rows
    for row, entry in known.items():
        matrix[row], truncated[row] = entry.vector, entry.truncated
    if encoded is None:
        return Encoded(vectors=matrix, truncated=truncated)
    for position, row in enumerate(missing):
        matrix[row], truncated[row] = encoded.vectors[position], encoded.truncated[position]
    return Encoded(
        vectors=matrix,
        truncated=truncated,
        queue_ms=encoded.queue_ms,
        tokenize_ms=encoded.tokenize_ms,
        forward_ms=encoded.forward_ms,
    )


def _agreed_fingerprint(encoder: "DualEncoder", call: EncodeCall) -> str:
    served = encoder.tower(call.role).fingerprint
    if call.expected_fingerprint and call.expected_fingerprint != served:
        raise FailedPreconditionError(
            f"the {call.role} tower of {encoder.name} has fingerprint {served}, expected is "
            f"{call.expected_fingerprint}: another model, or other settings, than "
            "the index was built with; serve that one, or build the index again with this one",
            reason="WRONG_ENCODER",
        )
    return served


def _to_response(encoded: Encoded, fingerprint: str) -> pb.EncodeResponse:
    return pb.EncodeResponse(
        vectors=vectors.to_proto(encoded.vectors),
        truncated=encoded.truncated,
        fingerprint=fingerprint,
        timings=pb.EncodeTimings(
            queue_ms=encoded.queue_ms,
            tokenize_ms=encoded.tokenize_ms,
            forward_ms=encoded.forward_ms,
        ),
        request_id=current_request_id(),
    )
