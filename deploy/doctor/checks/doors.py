"""Shoal's own doors that other machines reach, by how they answer a stranger. Pure.

Rule: whoever reaches a shard or an encoder needs no router to read every passage, and whoever may
administer a router can move it to another version; so an open door is a fault, whoever meant it.
"""

from collections.abc import Iterator

from deploy.doctor.facts.doors import Door
from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning
from shoal.target import host_port

_WORDS = {
    "router": "searches and administers the cluster",
    "shard_server": "reads every passage, and loads and releases versions",
    "encoder_service": "takes its processor or GPU",
}
_PROTECT = (
    "listen on 127.0.0.1, or give --tls-certificate, --tls-key and --tokens (docs/security.md); "
    "until then close the port with a firewall"
)


def open_doors(facts: Facts) -> Iterator[Finding]:
    """A port of Shoal's that other machines reach without TLS or without a token."""
    name = "open-doors"
    unreadable = [str(p.pid) for p in facts.own if not p.is_readable]
    if unreadable:
        yield warning(
            name,
            f"what these processes listen on can't be seen, as they are another user's: pid "
            f"{', '.join(unreadable)}",
            "run 'shoal doctor' as that user",
        )
    for door in facts.doors:
        yield _judged(door)
    if facts.own and not facts.doors and not unreadable:
        yield ok(name, f"{len(facts.own)} processes of Shoal listen on loopback alone")


def _judged(door: Door) -> Finding:
    name = "open-doors"
    by = ", by HTTP" if door.speaks == "http" else ""
    where = f"{door.module} (pid {door.pid}) is open to other machines on {_place(door)}{by}"
    can = _WORDS.get(door.module, "uses it") if not by else "searches the cluster"
    if door.speaks == "silent":
        return note(name, f"{where}, and did not answer when it was asked")
    plain = "" if door.tls else ", in plaintext"
    if door.asks:
        if door.tls:
            return ok(name, f"{where}, in TLS, and asks for a token")
        what = f"{where}{plain}: its token can be read on the way"
        return warning(name, what, "give it --tls-certificate and --tls-key (docs/security.md)")
    if door.asks is None and door.tls:
        return note(name, f"{where}, in TLS, and refuses who shows no certificate, or is busy")
    if door.asks is None and by:
        return warning(
            name,
            f"{where}{plain}: whoever reaches it reads its page, as of metrics",
            "give --metrics-host 127.0.0.1, or let who collects the figures alone reach it",
        )
    unknown = ", and could not be asked whether it wants a token" if door.asks is None else ""
    what = f"{where}{plain}{unknown or ', and asks for no token'}: whoever reaches it {can}"
    return fault(name, what, _PROTECT)


def _place(door: Door) -> str:
    return host_port(door.host, door.port)
