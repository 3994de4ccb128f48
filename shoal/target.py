"""Addresses as texts, and whether one can be connected to; pure, it resolves and opens nothing.

HOST:PORT, or one of gRPC's own schemes. gRPC takes any text and fails at the first call, in words
that name neither the text nor the fault; here it is refused at once.
"""

import ipaddress
import re

from shoal.errors import InvalidArgumentError

_MAX_PORT = 65_535
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/,@?#%\[\]]+):([0-9]{1,5})")
_URI_SIGNS = frozenset("?#%")
"""gRPC ends the path at the first two and decodes the third: the address would not be what is read
here (grpcio 1.85 connects `dns:///a:1?/127.0.0.1:1` to a)."""
_LISTS = {"ipv4": ipaddress.IPv4Address, "ipv6": ipaddress.IPv6Address}
_DNS_NAME = re.compile(r"(?://[^\s/]*/)?([^/]*)")
_PASSED = frozenset(("unix", "unix-abstract", "vsock", "xds"))


def target_fault(target: object) -> str:
    """Why `target` can't be connected to, as "must be HOST:PORT, ..."; empty where it can."""
    if not isinstance(target, str):
        return f"must be HOST:PORT, not {type(target).__name__}"
    scheme, _, rest = target.partition(":")
    if scheme in _PASSED:
        addressed = bool(rest.strip("/")) and rest.isprintable() and " " not in rest
        addressed = addressed and _URI_SIGNS.isdisjoint(rest)
    elif scheme == "dns":
        name = _DNS_NAME.fullmatch(rest)  # without a port gRPC takes 443
        addressed = name is not None and rest.isprintable() and _is_address(name[1])
        addressed = addressed and _URI_SIGNS.isdisjoint(rest)
    elif scheme in _LISTS:
        addressed = all(_is_listed(part, scheme) for part in rest.split(","))
    else:
        addressed = _is_address(target)
    if addressed:
        return ""
    of = f"; after {scheme}: HOST is an IP address" if scheme in _LISTS else ""
    return f"must be HOST:PORT with a port of 1 to {_MAX_PORT}{of}, not {target!r}"


def is_many(target: str) -> bool:
    """Whether a target may have several addresses: a list of them, or a name in gRPC's `dns:`."""
    scheme, _, rest = target.partition(":")
    return scheme == "dns" or (scheme in _LISTS and "," in rest)


def hosts_of(target: str) -> frozenset[str]:
    """The hosts that a target names for this machine to look up, without brackets.

    None where that isn't plain from the text: no host at all, or a resolver of the target's own
    (dns://RESOLVER/HOST:PORT), whose "localhost" may be anywhere.
    """
    scheme, _, rest = target.partition(":")
    if scheme in _LISTS:
        parts = rest.split(",")
    elif scheme == "dns":
        parts = [rest.removeprefix("///")]
    else:
        parts = [target]
    if target_fault(target) or not all(_is_address(part) for part in parts):
        return frozenset()
    return frozenset(part.rpartition(":")[0].strip("[]") for part in parts)


def bracketed(host: str) -> str:
    """The host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int | str) -> str:
    """The two as HOST:PORT."""
    return f"{bracketed(host)}:{port}"


def check_target(target: str, name: str = "target") -> str:
    """`target` as it is; `name` is what the caller calls it.

    Raises:
        InvalidArgumentError: it is neither HOST:PORT nor in one of gRPC's schemes.
    """
    if fault := target_fault(target):
        raise InvalidArgumentError(f"{name} {fault}", field="target")
    return target


def _is_listed(text: str, scheme: str) -> bool:
    """Whether it is IP:PORT: gRPC looks up no name after ipv4: or ipv6:."""
    host, _, _ = text.rpartition(":")
    try:
        _LISTS[scheme](host.strip("[]"))
    except ValueError:
        return False
    return _is_address(text) and host.startswith("[") == (scheme == "ipv6")


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and text.isprintable() and 1 <= int(match[1]) <= _MAX_PORT
