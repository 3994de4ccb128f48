"""Keys, tokens and certificates: who may read or change them, and when they end. Pure."""

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning

if TYPE_CHECKING:  # it needs more than the bare install
    from deploy.doctor.facts.secrets import SecretFile

_SOON = timedelta(days=14)
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def secret_files(facts: Facts) -> Iterator[Finding]:
    """Secrets that other users of the machine can read, or change."""
    name = "secret-files"
    wrong = False
    for file in facts.secrets:
        if file.fault and file.kind != "certificate":
            wrong = True
            yield fault(name, file.fault, "mend it, or start what uses it with another")
            continue
        bad = _OTHERS_WRITE
        if file.kind in {"key", "token"}:  # a tokens file has digests alone
            bad |= stat.S_IROTH
        if file.mode & bad:
            wrong = True
            may = "change" if file.mode & _OTHERS_WRITE else "read"
            yield fault(
                name,
                f"{file.path}, a {file.kind} file, has mode {file.mode:04o}: other users may {may} "
                "it",
                f"chmod {'600' if file.kind in {'key', 'token'} else '644'} {file.path}, and make "
                "a new secret if they are not trusted",
            )
        elif file.kind in {"key", "token"} and file.mode & _OTHERS_READ:
            wrong = True
            yield note(name, f"{file.path}, a {file.kind} file, can be read by its group")
    if facts.secrets and not wrong:
        yield ok(name, f"{len(facts.secrets)} files of keys and tokens are their user's alone")


def ends(facts: Facts) -> Iterator[Finding]:
    """Certificates and tokens that have ended, or soon will."""
    if facts.clock is None:
        return
    for file in facts.secrets:
        if file.kind == "certificate" and file.fault:
            yield fault(
                "ends",
                file.fault,
                f"put a valid certificate at {file.path}: processes take it up within a second",
            )
        elif file.expires is not None:
            yield _ending(file, file.expires, facts.clock.now)


def _ending(file: "SecretFile", expires: datetime, now: datetime) -> Finding:
    what = f"token {file.entry!r} of {file.path}" if file.entry else f"certificate {file.path}"
    remedy = (
        "make another with 'shoal token new', and take the old entry away"
        if file.entry
        else "put the next certificate in its place: processes take it up within a second"
    )
    if expires <= now:
        told = f"{what} has ended on {expires:%Y-%m-%d %H:%M} UTC"
        return note("ends", told, remedy) if file.entry else fault("ends", told, remedy)
    if expires - now <= _SOON:
        return warning("ends", f"{what} ends on {expires:%Y-%m-%d %H:%M} UTC", remedy)
    return ok("ends", f"{what} ends on {expires:%Y-%m-%d}")
