"""Channels with the options that gRPC's defaults get wrong for a search cluster.

Sources: grpc's own channel argument documentation (`grpc/impl/channel_arg_names.h`).
"""

import json
from collections.abc import Sequence

import grpc

from shoal.credentials import (
    NO_CREDENTIALS,
    Credentials,
    Tls,
    check_credentials,
    is_loopback_target,
    read_pem,
)
from shoal.errors import ConfigError
from shoal.rpc.limits import MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from shoal.target import hosts_of, is_many

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
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # not a wait in spite of its name, but the least that an attempt may take, TLS and SETTINGS
    # included: at 100 ms, far servers and busy machines were never reached, or at the second try
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # two channels to one address must be two connections where a caller asks for two
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # the client retries by our own rule
)


_BALANCED_OPTIONS: Options = (
    # a router that was stopped, or whose machine is gone, keeps its connections: calls there hang
    # until a ping isn't answered, 2.5 s at the longest
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    # it is this that ends a connection whose process is stopped: with the line above alone, calls
    # hung on for 6 s and more (grpcio 1.85)
    ("grpc.http2.ping_timeout_ms", 1_500),
)


def open_channel(
    target: str, credentials: Credentials = NO_CREDENTIALS, *, balanced: str = ""
) -> grpc.aio.Channel:
    """An asyncio channel to `target` (host:port, or any gRPC name), in TLS where they say so.

    Args:
        target: where to; one with several addresses is connected to the first that answers, or
        balanced: the service, by full name, that all of them serve: calls go to each in turn whose
            health says SERVING of it (gRPC's round_robin and client-side health checking).
        credentials: what to show, and whom to trust.

    The token is not the channel's: every call passes `credentials.metadata`, which costs nothing;
    gRPC's own call credentials take a thread's turn a call.

    Raises:
        InvalidArgumentError: a token that would cross a network in plaintext.
        ConfigError: a certificate, key or authority that can't be read; or several hosts in TLS
            without a name that their certificates share.
    """
    tls = check_credentials(target, credentials).tls
    options = _options(target, tls, balanced)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, _tls_credentials(tls), options=options)


def open_sync_channel(
    target: str, credentials: Credentials = NO_CREDENTIALS, *, balanced: str = ""
) -> grpc.Channel:
    """A blocking channel to `target`; as `open_channel`."""
    tls = check_credentials(target, credentials).tls
    options = _options(target, tls, balanced)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, _tls_credentials(tls), options=options)


def _tls_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=read_pem(tls.ca, "the TLS authority") if tls.ca else None,
        private_key=read_pem(tls.key, "the TLS key") if tls.key else None,
        certificate_chain=(
            read_pem(tls.certificate, "the TLS certificate") if tls.certificate else None
        ),
    )


def _one_host(target: str) -> str:
    """The host that a list of addresses has in common; "" for what is no list.

    gRPC would look for the whole list in each one's certificate.

    Raises:
        ConfigError: hosts that differ, so that no certificate could be told to be right.
    """
    if "," not in target:
        return ""
    hosts = hosts_of(target)
    if len(hosts) > 1:
        raise ConfigError(
            f"{target} has several hosts: in TLS they need server_name, a name that "
            "each one's certificate carries"
        )
    return next(iter(hosts), "")


def _options(target: str, tls: Tls | None, balanced: str) -> Options:
    options = dict(CHANNEL_OPTIONS)
    if balanced and is_many(target):
        options |= dict(_BALANCED_OPTIONS)
        options["grpc.service_config"] = json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": balanced},
            }
        )
    if is_loopback_target(target):
        # gRPC heeds grpc_proxy, https_proxy and http_proxy for this machine's own addresses too:
        # a token in plaintext would leave it
        options["grpc.enable_http_proxy"] = 0
    if tls is not None and (name := tls.server_name or _one_host(target)):
        options["grpc.ssl_target_name_override"] = name
    return tuple(options.items())
