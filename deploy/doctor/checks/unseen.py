"""What could not be looked at: nobody may take silence for health. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, note, warning


def unseen(facts: Facts) -> Iterator[Finding]:
    """A look that failed."""
    for look in facts.unseen:
        if look.lacks:  # an installation may be the client's, which needs none of it
            what = f"{look.what} could not be looked at without the package {look.lacks}"
            yield note(
                "unseen", what, "pip install 'shoal[router]' where a cluster's processes run"
            )
            continue
        yield warning(
            "unseen",
            f"{look.what} could not be looked at, because: {look.why}",
            "run 'shoal doctor' where and as whom the cluster runs, with what its programs need",
        )
