"""The clock, by which certificates, tokens and leases end, and latencies are told. Pure.

No RPC of Shoal's tells the time, so the skew between machines is not known here: each machine's own
doctor says whether its clock is kept.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, note, ok, warning

_MOST_ERROR_S = 1.0
_AHEAD_S = 60.0
_SLOW_SOURCES = frozenset(("hpet", "acpi_pm", "jiffies", "pit"))


def clock_kept(facts: Facts) -> Iterator[Finding]:
    """A clock that nothing keeps right, or that an index's own date belies."""
    clock = facts.clock
    if clock is None:
        return
    name = "clock"
    made = _moment(facts.index.created_at) if facts.index else None
    if made is not None and (made - clock.now).total_seconds() > _AHEAD_S:
        yield warning(
            name,
            f"by this clock, {clock.now:%Y-%m-%d %H:%M} UTC, the index will be made only on "
            f"{made:%Y-%m-%d %H:%M}: this machine's clock is slow, or its builder's was fast",
            "set both by NTP: timedatectl set-ntp true",
        )
    if clock.synchronized is None:
        yield note(name, "whether the clock is kept by NTP can't be asked here")
    elif not clock.synchronized:
        yield note(
            name,
            "the kernel says that nothing keeps its clock by NTP; in a container or a virtual "
            "machine, its host may",
            "timedatectl set-ntp true, or run chronyd: certificates, tokens and leases end by it",
        )
    elif clock.error_s > _MOST_ERROR_S:
        yield warning(
            name,
            f"the clock may be {clock.error_s:.1f} s wrong, the kernel says",
            "see 'timedatectl timesync-status' or 'chronyc tracking'",
        )
    else:
        yield ok(name, f"the clock is kept, to {clock.error_s * 1000:.0f} ms at most")
    if facts.cluster is not None and facts.cluster.on == "ray":
        yield note(
            name,
            "the clocks of the cluster's other machines are not known here",
            "run 'shoal doctor' on each of them",
        )


def clock_source(facts: Facts) -> Iterator[Finding]:
    """A clock that is slow to read: each query reads it dozens of times."""
    clock = facts.clock
    if clock is None or not clock.source:
        return
    if clock.source in _SLOW_SOURCES:
        yield warning(
            "clock-source",
            f"the kernel's clock source is {clock.source}, which takes a system call to read",
            "boot with tsc=reliable, or choose kvm-clock or tsc in "
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )
    else:
        yield ok("clock-source", f"the kernel's clock source is {clock.source}")


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    told = datetime.fromisoformat(text)
    return told.replace(tzinfo=told.tzinfo or UTC)
