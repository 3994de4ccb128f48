"""`python -m encoder_service --model MODEL`: one encoder process."""

from encoder_service.config import EncoderConfig
from encoder_service.service import EncoderService
from shoal.rpc.server import Service, run, serve
from shoal.v1 import encoder_pb2, encoder_pb2_grpc


async def main(config: EncoderConfig) -> None:
    """Serves until told to stop."""
    encoder = EncoderService(config)
    service = Service(
        full_name=encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
        add=lambda server: encoder_pb2_grpc.add_EncoderServiceServicer_to_server(encoder, server),
    )
    await serve(config, [service], start=encoder.load, stop=encoder.close)


if __name__ == "__main__":
    run("encoder_service", EncoderConfig, main)
