"""What a push or a pull has to do, and what it refuses. Pure: no files, no network.

Rule: an index never takes another one's place unasked, and a version number that both sides know
means one manifest. Must not know how bytes travel.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.formats.manifest import FileEntry
from shoal.formats.versions import Current


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """Files by what the remote has of them.

    `to_copy` are missing there or of another size; `to_check` are there, but no manifest in our
    history vouches for them, as where a push was interrupted; `kept` are vouched for.
    """

    to_copy: tuple[FileEntry, ...]
    to_check: tuple[FileEntry, ...]
    kept: tuple[FileEntry, ...]


def plan_push(
    entries: Iterable[FileEntry], *, sizes: Mapping[str, int], vouched: Collection[FileEntry]
) -> PushPlan:
    """Sort `entries` by the remote's `sizes` (bytes by path) and what `vouched` manifests list."""
    to_copy, to_check, kept = [], [], []
    for entry in entries:
        if sizes.get(entry.path) != entry.n_bytes:
            to_copy.append(entry)
        elif entry in vouched:
            kept.append(entry)
        else:
            to_check.append(entry)
    return PushPlan(to_copy=tuple(to_copy), to_check=tuple(to_check), kept=tuple(kept))


def in_history(there: Current | None, history: Mapping[int, str]) -> bool:
    """Whether the remote's live version is one of ours (`history`: manifest SHA-256 by version)."""
    return there is not None and history.get(there.version) == there.manifest_sha256


def refuse_push(
    url: str, name: str, *, there: Current | None, there_name: str, history: Mapping[int, str]
) -> None:
    """ConfigError where the push would put another index, or a version not ours, aside."""
    if there is None or in_history(there, history):
        return
    if there_name != name:
        raise ConfigError(
            f"{url}: holds index {there_name!r}, not {name!r}; push to another URL, or --force"
        )
    raise ConfigError(
        f"{url}: its live version {there.version} is not in this index's history "
        f"(versions {', '.join(map(str, sorted(history)))}); pull it first, or --force"
    )


def refuse_pull(
    index_dir: object,
    *,
    here: Current | None,
    here_name: str,
    there: Current,
    there_name: str,
    there_sha256_of_ours: str | None,
) -> None:
    """ConfigError where the pull would put aside what the remote doesn't have.

    `there_sha256_of_ours` is the remote manifest's of our version number; None: it has none.
    """
    if here is None or here == there:
        return
    if here_name != there_name:
        raise ConfigError(
            f"{index_dir}: holds index {here_name!r}, the URL {there_name!r}; "
            "choose another --index"
        )
    if here.version > there.version:
        raise ConfigError(
            f"{index_dir}: version {here.version} is ahead of the URL's {there.version}; "
            "push it, or choose another --index"
        )
    if there_sha256_of_ours not in {None, here.manifest_sha256} or here.version == there.version:
        raise ConfigError(
            f"{index_dir}: its version {here.version} is another than the URL's version "
            f"{here.version}; choose another --index"
        )
