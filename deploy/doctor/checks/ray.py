"""Ray's ports and its authentication. Pure.

Rule: whoever reaches an unprotected port of Ray runs code on the cluster (CVE-2023-48022), so what
is open to other machines is a fault unless Ray is seen to ask for tokens.
"""

from collections.abc import Iterator

from deploy.doctor.facts.ray_processes import DEFAULT_PORTS, PROTECTED_MODE, RayRole
from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, Severity, fault, note, ok, warning

_TURN_ON = (
    "set RAY_AUTH_MODE=token where 'ray start' runs, on every node, with one ~/.ray/auth_token "
    "from 'ray get-auth-token --generate', and start Ray anew"
)
_CLOSE = {
    RayRole.DASHBOARD: "start the head with --dashboard-host=127.0.0.1, and reach it through "
    "'ray dashboard FILE' or an ssh tunnel",
    RayRole.GCS: "let the cluster's nodes alone reach it, by a firewall or a security group",
    RayRole.NODE: "let the cluster's nodes, and what probes them, alone reach it, by a firewall or "
    "a security group",
    RayRole.CLIENT: "close it with a firewall or a security group; Shoal has no use for it",
}


def ray_authentication(facts: Facts) -> Iterator[Finding]:
    """Ray that runs here, or would be started from here, takes work from anyone."""
    name = "ray-authentication"
    for process in facts.ray:
        who = f"{process.role.value} (pid {process.pid})"
        if process.auth_mode is None:
            what = f"whether {who} asks for tokens can't be seen: it is another user's"
            yield warning(name, what, "run 'shoal doctor' as that user")
        elif process.auth_mode != PROTECTED_MODE:
            what = f"{who} asks for no token: whoever reaches it runs code here"
            yield fault(name, what, _TURN_ON)
    if facts.ray or facts.auth_mode == PROTECTED_MODE:
        if all(process.auth_mode == PROTECTED_MODE for process in facts.ray):
            yield ok(name, f"Ray asks for tokens: {len(facts.ray)} processes of it run here")
        return
    would = "a 'ray start' would take work from anyone"
    if facts.auth_mode:
        yield fault(name, f"RAY_AUTH_MODE is {facts.auth_mode!r} here: {would}", _TURN_ON)
    elif not facts.has_token:
        yield note(name, f"RAY_AUTH_MODE is unset and there is no token: {would}", _TURN_ON)
    else:
        yield ok(name, "Ray does not run here, and would ask for the token that is there")


def ray_ports(facts: Facts) -> Iterator[Finding]:
    """A port of Ray's, its own choice or the default, that other machines can reach."""
    protected = bool(facts.ray) and all(
        process.auth_mode == PROTECTED_MODE for process in facts.ray
    )
    found = list(_open_ports(facts))
    if facts.listening and not found:
        yield ok("ray-ports", "no port of Ray's is open to other machines")
    for role, port, hosts in found:
        # nothing but people needs the dashboard; nodes need the others
        mild = protected and role is not RayRole.DASHBOARD
        yield Finding(
            check="ray-ports",
            severity=Severity.WARNING if mild else Severity.FAULT,
            what=f"port {port}, {role.value}, is open to other machines on {', '.join(hosts)}"
            + ("" if protected else ", and is not seen to ask for tokens"),
            remedy=_CLOSE[role] + ("" if protected else f"; {_TURN_ON}"),
        )


def ray_encryption(facts: Facts) -> Iterator[Finding]:
    """Ray's nodes tell each other in plaintext what they may, Shoal's own token among it."""
    nodes = [process for process in facts.ray if process.encrypts is False]
    if nodes and any(True for _ in _open_ports(facts)):
        yield Finding(
            check="ray-encryption",
            severity=Severity.WARNING,
            what="Ray's nodes talk to each other in plaintext, and the token that Shoal's own "
            "processes share crosses their network",
            remedy="keep that network to the nodes, or set RAY_USE_TLS=1 and its certificates on "
            "every node (docs/ray.md)",
        )


def _open_ports(facts: Facts) -> Iterator[tuple[RayRole, int, list[str]]]:
    """Ray's ports that other machines reach, each with the addresses that it is open on."""
    for role, default in DEFAULT_PORTS.items():
        told = {process.port for process in facts.ray if process.role is role and process.port}
        for port in sorted(told or {default} - facts.not_rays):
            hosts = sorted(s.host for s in facts.listening if s.port == port and s.exposed)
            if hosts:
                yield role, port, hosts
