"""Starts one shard server: `python -m shard_server --index DIR --shard 0`."""

from shard_server.config import ShardConfig
from shard_server.service import ShardServicer
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc
from shoal.rpc.server import Service, run, serve


async def serve_shard(config: ShardConfig) -> None:
    """Serve until told to stop."""
    servicer = ShardServicer(config)
    service = Service(
        full_name=shard_pb2.DESCRIPTOR.services_by_name["ShardService"].full_name,
        add=lambda server: shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server),
    )
    await serve(config, [service], start=servicer.start, stop=servicer.stop)


if __name__ == "__main__":
    run("shard_server", ShardConfig, serve_shard)
