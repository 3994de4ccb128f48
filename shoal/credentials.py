"""What a caller shows and whom it trusts: a token, and TLS. Plain values; opens no connection.

Rule: a token never leaves this machine in plaintext, and no repr shows one.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError, InvalidArgumentError
from shoal.target import hosts_of

AUTHORIZATION_KEY = "authorization"
_LOCAL_SCHEMES = frozenset(("unix", "unix-abstract"))
_MAX_TOKEN = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How to know the server, and how to be known by it where it asks (mutual TLS).

    Attributes:
        ca: PEM file of the authorities to trust; without it those of the machine.
        certificate: PEM file of the caller's own certificate and its chain.
        key: PEM file of its private key.
        server_name: the name that the server's certificate must carry; the target's host without.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a TLS certificate and its key come together; one of them is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one channel is opened with; neither TLS nor a token by default."""

    tls: Tls | None = None
    token: str = field(default="", repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: the token, where there is one."""
        return ((AUTHORIZATION_KEY, f"Bearer {self.token}"),) if self.token else ()


NO_CREDENTIALS = Credentials()


def check_credentials(target: str, credentials: Credentials) -> Credentials:
    """`credentials` as they are, once they may be used with `target`.

    Raises:
        InvalidArgumentError: the token is no token, or would cross a network in plaintext.
    """
    token = credentials.token
    if not token:
        return credentials
    if len(token) > _MAX_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidArgumentError(
            f"the token must be at most {_MAX_TOKEN} printable ASCII characters without spaces",
            field="token",
        )
    if credentials.tls is None and not is_loopback_target(target):
        raise InvalidArgumentError(
            f"a token would go to {target} in plaintext, for anybody on the way to read; "
            "use TLS, which needs the server to serve it",
            field="token",
        )
    return credentials


def read_token(path: Path) -> str:
    """The token that a file holds, alone on one line.

    Raises:
        ConfigError: it can't be read, or is empty.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as failure:
        raise ConfigError(f"can't read the token file {path}: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise ConfigError(f"the token file {path} holds more than one line of ASCII") from failure
    if not token or len(token.split()) != 1:
        raise ConfigError(f"the token file {path} must hold one token and nothing else")
    return token


def read_pem(path: Path, what: str) -> bytes:
    """A PEM file's bytes; `what` names it in the error.

    Raises:
        ConfigError: it can't be read, or is no PEM file.
    """
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise ConfigError(f"can't read {what} {path}: {failure.strerror}") from failure
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{what} {path} is no PEM file")
    return content


def refuse_password() -> str:
    """What ssl asks for the password of a key; without it, it would ask at the terminal.

    Raises:
        ValueError: always.
    """
    raise ValueError("the key is protected by a password; a process can't be asked for one")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own address, or localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_loopback_target(target: str) -> bool:
    """Whether a channel to `target` stays on this machine; what can't be told counts as not."""
    if target.partition(":")[0] in _LOCAL_SCHEMES:
        return True
    hosts = hosts_of(target)
    return bool(hosts) and all(is_loopback(host) for host in hosts)
