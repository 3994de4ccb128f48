"""`python -m faults.echo`: a SearchService that answers at once: nothing but a load."""

from typing import Any

from shoal.config import ProcessConfig
from shoal.rpc.server import Service, run, serve
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc


class EchoConfig(ProcessConfig):
    """Settings of the echo."""


class Echo(search_pb2_grpc.SearchServiceServicer):
    """Answers nothing, at once."""

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        return pb.SearchResponse(results=[pb.QueryResult() for _ in request.queries], coverage=1.0)


async def main(config: EchoConfig) -> None:
    """Serves until told to stop."""
    service = Service(
        full_name=pb.DESCRIPTOR.services_by_name["SearchService"].full_name,
        add=lambda server: search_pb2_grpc.add_SearchServiceServicer_to_server(Echo(), server),
    )

    async def start() -> None:
        """Nothing to prepare."""

    await serve(config, [service], start=start)


if __name__ == "__main__":
    run("echo", EchoConfig, main)
