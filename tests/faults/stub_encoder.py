"""`python -m faults.stub_encoder`: a real EncoderService whose vectors the text alone decides.

Its flags make it lie: another fingerprint, another dimension, vectors of NaN.
"""

from typing import Any

import numpy as np
from faults import stub
from pydantic import Field

from shoal import contract, vectors
from shoal.config import ProcessConfig
from shoal.errors import FailedPreconditionError
from shoal.rpc.server import Service, run, serve
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc


class StubConfig(ProcessConfig):
    """Settings of the stub."""

    fingerprint: str = Field(stub.FINGERPRINT, description="the towers' fingerprint")
    dim: int = Field(stub.DIM, description="values a vector")
    nan: bool = Field(default=False, description="answer vectors of NaN")


class StubEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes by hashing."""

    def __init__(self, config: StubConfig) -> None:
        self._config = config

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> pb.EncodeResponse:
        if request.expected_fingerprint not in {"", self._config.fingerprint}:
            raise FailedPreconditionError("another encoder is served here")
        made = np.stack([stub.vector_of(text, self._config.dim) for text in request.texts])
        if self._config.nan:
            made[:] = np.nan
        return pb.EncodeResponse(
            vectors=vectors.to_proto(made),
            truncated=[False] * len(request.texts),
            fingerprint=self._config.fingerprint,
        )

    async def GetEncoder(self, request: Any, context: Any) -> pb.GetEncoderResponse:
        told = contract.to_proto(stub.StubEncode.contract, probes=False)
        for tower in (told.question, told.passage):
            tower.fingerprint, tower.dim = self._config.fingerprint, self._config.dim
        return pb.GetEncoderResponse(
            contract=told, model="stub", max_texts=1_024, max_text_bytes=65_536
        )


async def main(config: StubConfig) -> None:
    """Serves until told to stop."""
    servicer = StubEncoder(config)
    service = Service(
        full_name=pb.DESCRIPTOR.services_by_name["EncoderService"].full_name,
        add=lambda server: encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server),
    )

    async def start() -> None:
        """Nothing to prepare."""

    await serve(config, [service], start=start)


if __name__ == "__main__":
    run("stub_encoder", StubConfig, main)
