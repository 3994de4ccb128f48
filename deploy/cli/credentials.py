"""What a command shows the cluster, and whom it trusts: five flags, added to each that asks one.

Each has an environment variable; `SHOAL_TOKEN` holds a token itself, and there is no flag for
that: every user of a machine can read every command line. A local cluster's own user needs none:
`shoal up` leaves what its commands need in the state folder.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.access import local_credentials
from deploy.cli import flags
from deploy.cli.added_flags import with_flags
from deploy.state import ClusterState, read_state
from shoal.credentials import Credentials, Tls, read_token
from shoal.errors import InvalidArgumentError

_FLAGS: dict[str, Any] = {
    "token_file": Annotated[
        Path | None,
        typer.Option(
            "--token-file", envvar="SHOAL_TOKEN_FILE",
            help="File with the token to show; SHOAL_TOKEN holds one itself.",
        ),
    ],
    "tls_ca": Annotated[
        Path | None,
        typer.Option("--tls-ca", envvar="SHOAL_TLS_CA", help="PEM file of whom to trust."),
    ],
    "tls_certificate": Annotated[
        Path | None,
        typer.Option(
            "--tls-certificate", envvar="SHOAL_TLS_CERTIFICATE",
            help="PEM file of this side's certificate, for mutual TLS.",
        ),
    ],
    "tls_key": Annotated[
        Path | None,
        typer.Option("--tls-key", envvar="SHOAL_TLS_KEY", help="PEM file of its key."),
    ],
    "tls_server_name": Annotated[
        str | None,
        typer.Option(
            "--tls-server-name", envvar="SHOAL_TLS_SERVER_NAME",
            help="The name that the server's certificate must carry. Default: the target's.",
        ),
    ],
}  # fmt: skip


def with_credentials(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to a command, which gets them as one argument, `given: Credentials`."""
    return with_flags(command, _FLAGS, argument="given", gathered=_given)


def credentials_for(target: str, given: Credentials, name: str | None = None) -> Credentials:
    """`given`, completed by what a local cluster at `target` left for its own user."""
    state = read_state(name or flags.DEFAULT_NAME)
    if state is None or not state.alive or state.target != target:
        return given
    return completed(state, given)


def completed(state: ClusterState, given: Credentials) -> Credentials:
    """`given`, completed by what the cluster left for its own user."""
    own = local_credentials(state)
    tls = given.tls or own.tls
    if given.tls and own.tls and given.tls.ca is None:
        tls = Tls(
            ca=own.tls.ca,
            certificate=given.tls.certificate,
            key=given.tls.key,
            server_name=given.tls.server_name or own.tls.server_name,
        )
    return Credentials(tls=tls, token=given.token or own.token)


def _given(values: dict[str, Any]) -> Credentials:
    token_file, server_name = values.pop("token_file"), values.pop("tls_server_name")
    token = os.environ.get("SHOAL_TOKEN", "").strip()
    if token and token_file:
        raise InvalidArgumentError("give SHOAL_TOKEN or a token file, one of them", field="token")
    tls = None
    if server_name or any(values.values()):
        tls = Tls(
            ca=values["tls_ca"],
            certificate=values["tls_certificate"],
            key=values["tls_key"],
            server_name=server_name or "",
        )
    return Credentials(tls=tls, token=read_token(token_file) if token_file else token)
