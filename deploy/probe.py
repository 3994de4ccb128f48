"""`python -m deploy.probe`: whether a process serves, by its gRPC health; for Kubernetes.

Exit code 0 while it says SERVING, 69 otherwise, with one line on stderr. Kubernetes' own gRPC probe
speaks no TLS. Rule: light, as it is run every few seconds; knows nothing of what is served.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.credentials import Credentials, Tls
from shoal.errors import ShoalError, UnavailableError
from shoal.rpc.channel import open_sync_channel
from shoal.target import check_target


def probe(target: str, credentials: Credentials, timeout_s: float) -> None:
    """Asks once.

    Raises:
        UnavailableError: nothing answers in time, or it doesn't serve.
        InvalidArgumentError, ConfigError: the target, or a file that can't be read.
    """
    with open_sync_channel(check_target(target, "--target"), credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as failure:
            code = failure.code().name
            raise UnavailableError(f"{target} doesn't answer: {code}") from failure
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        raise UnavailableError(f"{target} is {status}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.probe", allow_abbrev=False)
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--timeout-s", type=float, default=2.0)
    parser.add_argument("--tls-ca", type=Path, help="ask over TLS, trusting this PEM file")
    parser.add_argument("--tls-server-name", default="", help="the name in its certificate")
    given = parser.parse_args(arguments)
    tls = Tls(ca=given.tls_ca, server_name=given.tls_server_name) if given.tls_ca else None
    try:
        probe(given.target, Credentials(tls=tls), given.timeout_s)
    except ShoalError as failure:
        sys.stderr.write(f"probe: {failure.message}\n")
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
