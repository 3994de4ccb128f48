"""Who may call what: a call's token to a caller, or a refusal. Time is an argument; no gRPC here.

Rules: health is open, so that launchers and load balancers need no secret. Everything else needs a
token: reflection, and methods that don't exist, any; search, encoding and administration their
scope. A refusal says nothing that depends on what is served.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shoal.credentials import AUTHORIZATION_KEY, read_token
from shoal.errors import ConfigError, PermissionDeniedError, ShoalError, UnauthenticatedError
from shoal.rpc.tokens import (
    ADMIN,
    ENCODE,
    SCOPES,
    SEARCH,
    Grant,
    digest_of,
    find_grant,
    read_tokens,
)

logger = logging.getLogger(__name__)

INTERNAL = "internal"
"""The name of our own processes, which share one token."""
CHECK_EVERY_S = 1.0
_OPEN = "/grpc.health.v1.Health/"
_SCOPES_BY_PREFIX = (
    ("/shoal.v1.SearchService/", SEARCH),
    ("/shoal.v1.EncoderService/", ENCODE),
    ("/shoal.internal.v1.", ADMIN),
)
_BEARER = "bearer "


def scope_of(method: str) -> str | None:
    """The scope that `/package.Service/Method` needs; None where any token will do."""
    for prefix, scope in _SCOPES_BY_PREFIX:
        if method.startswith(prefix):
            return scope
    return None


def is_audited(method: str) -> bool:
    """Whether each call of it leaves a line: what changes or shows the inside of a cluster.

    Our own processes' searches, checks and renewed leases are not: they are most of all calls.
    """
    rpc = method.rpartition("/")[2]
    if rpc == "Announce":
        return False  # once a second and replica; the router logs who comes and goes
    return method.startswith("/shoal.internal.v1.AdminService/") or rpc in {
        "LoadVersion", "ReleaseVersion"
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFiles:
    """Where grants come from: the tokens file, and the token that our own processes share."""

    tokens: Path | None = None
    internal_token: Path | None = None

    def read(self) -> tuple[Grant, ...]:
        """All grants. Raises ConfigError."""
        grants = read_tokens(self.tokens) if self.tokens else ()
        if any(grant.name == INTERNAL for grant in grants):
            raise ConfigError(f"{self.tokens}: the name {INTERNAL} is taken by our own processes")
        if self.internal_token:
            digest = digest_of(read_token(self.internal_token))
            grants += (Grant(name=INTERNAL, digest=digest, scopes=SCOPES),)
        return grants

    def signature(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file does. Raises OSError."""
        paths = [path for path in (self.tokens, self.internal_token) if path]
        return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in (p.stat() for p in paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Who called, as far as known, and why the call is refused, if it is."""

    caller: str = ""
    refusal: ShoalError | None = None


_ANYBODY = Verdict()


@dataclass(slots=True)
class Guard:
    """Judges calls by the grants in `files`, which are read again when they change.

    Raises:
        ConfigError: files that can't be used at the start.
    """

    files: AccessFiles
    _grants: tuple[Grant, ...] = ()
    _known: dict[bytes, Grant] = field(default_factory=dict, repr=False)
    _signature: tuple[tuple[int, int, int], ...] = ()
    _looked_s: float = 0.0

    def __post_init__(self) -> None:
        # before the files are read: what changes meanwhile is then read again
        try:
            self._signature = self.files.signature()
        except OSError as failure:
            raise ConfigError(f"can't read {failure.filename}: {failure.strerror}") from failure
        self._grants = self.files.read()

    def judge(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]], now_s: float
    ) -> Verdict:
        """Who calls, and whether that is allowed.

        The refusal is UnauthenticatedError for no token, two of them, an unknown or an expired
        one, PermissionDeniedError for one without the method's scope.

        Args:
            method: `/package.Service/Method`.
            metadata: the call's.
            now_s: Unix time.
        """
        if method.startswith(_OPEN):
            return _ANYBODY
        self._refresh(now_s)
        token = _token_of(metadata)
        if isinstance(token, ShoalError):
            return Verdict(refusal=token)
        grant = self._grant_of(token)
        if grant is None:
            return Verdict(refusal=UnauthenticatedError("the token is not known here"))
        name, scope = grant.name, scope_of(method)
        if grant.expires_s <= now_s:
            refusal: ShoalError = UnauthenticatedError(
                f"the token of {name} has expired; ask for a new one"
            )
            return Verdict(caller=name, refusal=refusal)
        if scope is not None and scope not in grant.scopes:
            refusal = PermissionDeniedError(
                f"the token of {name} lacks the scope {scope!r}, which this call needs"
            )
            return Verdict(caller=name, refusal=refusal)
        return Verdict(caller=name)

    def _grant_of(self, token: str) -> Grant | None:
        digest = digest_of(token)
        grant = self._known.get(digest)
        if grant is None:
            grant = find_grant(self._grants, digest)
            if grant is not None:
                self._known[digest] = grant  # as many as there are grants, at most
        return grant

    def _refresh(self, now_s: float) -> None:
        if abs(now_s - self._looked_s) < CHECK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            signature = self.files.signature()
            if signature == self._signature:
                return
            self._grants = self.files.read()
        except (ConfigError, OSError) as failure:
            logger.error("the tokens stay as they were: %s", failure)  # noqa: TRY400 -- one line
            return
        self._signature = signature
        self._known.clear()
        logger.info("took the new tokens: %d", len(self._grants))


def _token_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | UnauthenticatedError:
    given = [value for key, value in metadata if key == AUTHORIZATION_KEY]
    if not given:
        return UnauthenticatedError("this server asks for a token, and the call has none")
    value = given[0]
    if len(given) > 1 or not isinstance(value, str) or value[:7].lower() != _BEARER:
        return UnauthenticatedError("the call's authorization is not one bearer token")
    return value[7:]
