"""Talks to one encoder service: texts to vectors. The wire ends here."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from shoal import vectors
from shoal.contract import EncoderContract, from_proto
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import FailedPreconditionError, InvalidArgumentError
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.tracing.shared import shared_call
from shoal.tracing.spans import Span
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc
from shoal.vectors import Matrix

_ENCODE = f"{pb.DESCRIPTOR.services_by_name['EncoderService'].full_name}/Encode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Vectors of one job's texts: float32 (n, dim), and which texts were cut."""

    query_vectors: Matrix
    truncated: tuple[bool, ...]


class EncoderClient:
    """One encoder service."""

    def __init__(self, address: str, credentials: Credentials = NO_CREDENTIALS) -> None:
        self.address = address
        self._metadata = credentials.metadata
        self._channel = open_channel(address, credentials)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)

    async def encode(
        self,
        fingerprint: str,
        priority: int,
        jobs: Sequence[Sequence[str]],
        timeout_s: float,
        spans: Sequence[Span] = (),
    ) -> list[Encoded]:
        """The vectors of each job's questions, from one call.

        `spans` are those of the requests in it that are traced.

        Raises:
            FailedPreconditionError: vectors that the encoder asked for can't have made.
            ShoalError: the call's failure.
        """
        request = pb.EncodeRequest(
            texts=[text for texts in jobs for text in texts],
            role=pb.ENCODE_ROLE_QUERY,
            expected_fingerprint=fingerprint,
            priority=priority,  # type: ignore[arg-type]
        )
        try:
            with shared_call(_ENCODE, self.address, spans, len(request.texts)) as traced:
                reply = await self._stub.Encode(
                    request, timeout=timeout_s, metadata=(*self._metadata, *traced)
                )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        matrix = _checked(reply, fingerprint, len(request.texts))
        stops = np.cumsum([len(texts) for texts in jobs]).tolist()
        return [
            Encoded(query_vectors=matrix[a:b], truncated=tuple(reply.truncated[a:b]))
            for a, b in zip([0, *stops], stops, strict=False)
        ]

    async def describe(self, timeout_s: float) -> EncoderContract:
        """The encoder's contract. Raises ShoalError."""
        try:
            reply = await self._stub.GetEncoder(
                pb.GetEncoderRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        return from_proto(reply.contract, reply.model)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()


def _checked(reply: pb.EncodeResponse, fingerprint: str, n_texts: int) -> Matrix:
    if reply.fingerprint != fingerprint:
        raise FailedPreconditionError(
            f"the encoder {reply.fingerprint[:12]} answered instead of {fingerprint[:12]}"
        )
    try:
        matrix = vectors.from_proto(reply.vectors, "vectors")
    except InvalidArgumentError as broken:  # the encoder's fault, not the caller's
        raise FailedPreconditionError(
            f"the encoder's reply is broken: {broken.message}"
        ) from broken
    if len(matrix) != n_texts or len(reply.truncated) != n_texts:
        raise FailedPreconditionError(
            f"the encoder answered {len(matrix)} vectors and {len(reply.truncated)} flags for "
            f"{n_texts} texts"
        )
    return matrix
