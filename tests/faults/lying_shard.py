"""`python -m faults.lying_shard`: a real shard server that spoils every reply to a search."""

import random
from typing import Any

from faults.lies import LIES
from pydantic import Field

from shard_server.config import ShardConfig
from shard_server.service import ShardServicer
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.server import Service, run, serve


class LyingConfig(ShardConfig):
    """A shard's settings, and how to lie."""

    seed: int = Field(0, description="of the choice of lies")
    lie: str = Field("", description="tell this lie alone")


class LyingServicer(ShardServicer):
    """Answers as a shard does, and then spoils it."""

    def __init__(self, config: LyingConfig) -> None:
        super().__init__(config)
        self._chance = random.Random(config.seed)
        self._lies = [lie for lie in LIES if config.lie in {"", lie.__name__}]

    async def SearchShard(
        self, request: pb.SearchShardRequest, context: Any
    ) -> pb.SearchShardResponse:
        reply = await super().SearchShard(request, context)
        self._chance.choice(self._lies)(reply, self._chance)
        return reply


async def main(config: LyingConfig) -> None:
    """Serves until told to stop."""
    servicer = LyingServicer(config)
    service = Service(
        full_name=pb.DESCRIPTOR.services_by_name["ShardService"].full_name,
        add=lambda server: shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server),
    )
    await serve(config, [service], start=servicer.start, stop=servicer.stop)


if __name__ == "__main__":
    run("lying_shard", LyingConfig, main)
