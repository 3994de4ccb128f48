"""Who may ask the HTTP port, by a request's headers. Pure but for the guard's own file reads.

A browser on this machine reaches a loopback port, and so does every page that it shows. Rules:
1. The Host is an address, localhost, this machine's name, or one that the operator named: a name
   that somebody else can point at this machine (DNS rebinding) is refused.
2. What another site's page sends (its Origin, or Sec-Fetch-Site) is refused; a link to the page
   itself is not.
3. Where tokens are asked for, whatever isn't a file of the page needs one with the scope `search`;
   what shows the inside of the cluster needs `admin` as well.
"""

import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.credentials import AUTHORIZATION_KEY
from shoal.errors import PermissionDeniedError, ShoalError
from shoal.rpc.access import Guard

_SEARCH = "/shoal.v1.SearchService/Search"
_INSIDE = "/shoal.internal.v1.AdminService/GetTopology"
_OWN_SITE = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorkeeper:
    """Judges requests; `names` are host names by which callers may know this machine."""

    guard: Guard | None
    scheme: str
    names: frozenset[str] = field(default_factory=frozenset)

    def fault(self, headers: Mapping[str, str], *, is_page: bool) -> PermissionDeniedError | None:
        """Why a request is a stranger's; `is_page` where it asks for a file of the page."""
        host = headers.get("Host", "")
        if not is_own_host(host, self.names):
            return PermissionDeniedError(
                f"the Host {host[:200]!r} is no name of this server; name it in --http-names"
            )
        origin = headers.get("Origin")
        if origin is not None and origin.lower() != f"{self.scheme}://{host}".lower():
            return PermissionDeniedError("a page of another site may not ask this server")
        site = headers.get("Sec-Fetch-Site", "none")
        if not is_page and site not in _OWN_SITE:
            return PermissionDeniedError("a page of another site may not ask this server")
        return None

    def refusal(self, headers: Mapping[str, str]) -> ShoalError | None:
        """Why the caller may not search; None where it may."""
        return self._judged(_SEARCH, headers)

    def sees_inside(self, headers: Mapping[str, str]) -> bool:
        """Whether the caller may see addresses, faults' details, and what others asked."""
        return self._judged(_INSIDE, headers) is None

    def _judged(self, method: str, headers: Mapping[str, str]) -> ShoalError | None:
        if self.guard is None:
            return None
        given = headers.get("Authorization")
        metadata = () if given is None else ((AUTHORIZATION_KEY, given),)
        return self.guard.judge(method, metadata, time.time()).refusal


def is_own_host(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header (name or address, and maybe a port) can only mean this server."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost") or name in names
    return True


def own_names(host: str, named: str) -> frozenset[str]:
    """This machine's names: where it listens, what it calls itself, and those `named` by commas."""
    names = (host, socket.gethostname(), *named.split(","))
    return frozenset(name.strip().lower() for name in names if name.strip())
