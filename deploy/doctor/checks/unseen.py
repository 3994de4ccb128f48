"""What could not be looked at: nobody may take silence for health. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, warning


def unseen(facts: Facts) -> Iterator[Finding]:
    """A look that failed."""
    for look in facts.unseen:
        yield warning(
            "unseen",
            f"{look.what} could not be looked at, because: {look.why}",
            "run 'shoal doctor' where and as whom the cluster runs, with what its programs need",
        )
