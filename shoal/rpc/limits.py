"""What one server takes at its door, in one place, each with its reason.

Names are gRPC's channel arguments (`grpc/impl/channel_arg_names.h`). What a request may ask for
is the services' to limit; this is about bytes, streams, connections and time.
"""

from collections.abc import Sequence

from shoal.rpc.backlog import BACKLOG_OPTIONS

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A request, at most."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""An answer, at most: 1,024 queries with text don't fit a request's limit."""
HANDSHAKE_TIMEOUT_S = 10.0
"""TLS handshake and first SETTINGS frame: a peer that dribbles its bytes is gone after that."""
MAX_METADATA_BYTES = 8 * 1024
MAX_CONNECTION_AGE_S = 3_600.0
CONNECTION_GRACE_S = 600.0

Options = Sequence[tuple[str, int]]


def server_options() -> Options:
    """The options of every server of ours."""
    return (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_REPLY_BYTES),
        # a port in use must be an error, not a second listener
        ("grpc.so_reuseport", 0),
        # a peer that vanished without a word is noticed within 40 s
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # our clients ping every second where they have several routers; who pings more often than
        # twice a second gets two warnings, then GOAWAY ENHANCE_YOUR_CALM
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_TIMEOUT_S * 1000)),
        # calls under way on one connection; more wait at the client
        ("grpc.max_concurrent_streams", 4_096),
        *BACKLOG_OPTIONS,
        # a token, a request id and tracing need less than 1 KiB; gRPC refuses at random between
        # the first and the second, and always above the second
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        # a connection ends once an hour, so that clients find new addresses and certificates;
        # its calls get the grace, a stream that lives longer is UNAVAILABLE and begun again
        ("grpc.max_connection_age_ms", round(MAX_CONNECTION_AGE_S * 1000)),
        ("grpc.max_connection_age_grace_ms", round(CONNECTION_GRACE_S * 1000)),
    )
