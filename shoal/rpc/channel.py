"""Channels with the options that gRPC's defaults get wrong for a search cluster.

Sources: grpc's own channel argument documentation (`grpc/impl/channel_arg_names.h`).
"""

from collections.abc import Sequence

import grpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A request, at most."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""An answer, at most: 1,024 queries with text don't fit a request's limit."""

Options = Sequence[tuple[str, int | str]]

CHANNEL_OPTIONS: Options = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # a restarted process must be found again in a second, not in the default's two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # two channels to one address must be two connections where a caller asks for two
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # the client retries by our own rule
)


def open_channel(target: str) -> grpc.aio.Channel:
    """A plaintext asyncio channel to `target` (host:port, or any gRPC name)."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


def open_sync_channel(target: str) -> grpc.Channel:
    """A plaintext blocking channel to `target`."""
    return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
