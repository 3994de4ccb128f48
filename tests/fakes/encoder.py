"""A scripted encoder service: vectors that the text alone decides."""

import asyncio

import grpc
import numpy as np
from fakes.corpus import DIM, vector_of

from shoal import vectors
from shoal.errors import FailedPreconditionError
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc

FINGERPRINT = "f" * 64


class FakeEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes by `vector_of`; a text that begins with "long" counts as cut."""

    def __init__(self, fingerprint: str = FINGERPRINT, dim: int = DIM) -> None:
        self.fingerprint, self.dim = fingerprint, dim
        self.address = "127.0.0.1:0"
        self.raises: Exception | None = None
        self.mutate = None
        self.drift = 0.0
        """Added to every value: another function under the same fingerprint."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.n_calls = 0
        self.n_texts = 0
        self.n_cancelled = 0
        self.largest_request_bytes = 0

    async def start(self) -> None:
        self._server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Encode(self, request, context):
        self.n_calls += 1
        self.n_texts += len(request.texts)
        self.largest_request_bytes = max(self.largest_request_bytes, request.ByteSize())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise
        if self.raises is not None:
            raise self.raises
        if request.expected_fingerprint not in {"", self.fingerprint}:
            raise FailedPreconditionError("another encoder is served here")
        reply = pb.EncodeResponse(
            vectors=vectors.to_proto(
                self.drift
                + np.stack([vector_of(t, self.dim) for t in request.texts], dtype=np.float32)
            ),
            truncated=[text.startswith("long") for text in request.texts],
            fingerprint=self.fingerprint,
        )
        if self.mutate is not None:
            self.mutate(reply)
        return reply

    async def GetEncoder(self, request, context):
        reply = pb.GetEncoderResponse(model="stub", max_texts=1_024, max_text_bytes=65_536)
        for tower in (reply.contract.question, reply.contract.passage):
            tower.fingerprint, tower.dim, tower.max_tokens = self.fingerprint, self.dim, 128
        return reply
