"""The index: its bytes, its versions, and what it leaves behind. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok

_MIB = 1 << 20
_SHOWN = 5


def index_files(facts: Facts) -> Iterator[Finding]:
    """Files that are not those of the manifest."""
    index = facts.index
    if index is None:
        return
    name = "index-files"
    for text in index.faults[:_SHOWN]:
        yield fault(name, text, "copy that file again, or build the index anew; a shard that is "
                    "started now refuses to serve it")  # fmt: skip
    if len(index.faults) > _SHOWN:
        yield fault(
            name,
            f"{len(index.faults) - _SHOWN} more faults at {index.place}",
            f"'shoal index verify --index {index.place}' tells them all",
        )
    if index.faults:
        return
    whole = f"index {index.name!r} at {index.place}: {index.n_files} files, {_mib(index.n_bytes)}"
    if index.is_deep:
        yield ok(name, f"{whole}, every byte checked")
    elif index.n_hashed_bytes >= index.n_bytes:
        yield ok(name, f"{whole}, checksums hold")
    else:
        yield note(
            name,
            f"{whole}; sizes hold, and so do the checksums of {_mib(index.n_hashed_bytes)}",
            "--deep reads the rest",
        )


def index_versions(facts: Facts) -> Iterator[Finding]:
    """A cluster behind the index, or a version that it serves and that is gone."""
    index, cluster = facts.index, facts.cluster
    if index is None or not index.live:
        return
    name = "index-versions"
    served = cluster.version if cluster else 0
    flag = f" --name {cluster.name}" if cluster and cluster.name != "default" else ""
    if cluster is not None and served and not _is_same(facts):
        yield note(
            name,
            f"the cluster serves index {cluster.index!r} from {cluster.index_dir or 'elsewhere'}, "
            f"and {index.place} was looked at",
        )
    elif served and served not in index.versions:
        yield fault(
            name,
            f"the cluster serves version {served}, which is not at {index.place} any more: a "
            "process that is started again can't load it",
            f"shoal reload{flag}, which moves to version {index.live}",
        )
    elif served and served != index.live:
        yield note(
            name,
            f"the cluster serves version {served}, and version {index.live} is live",
            f"shoal reload{flag}",
        )
    else:
        what = f"version {index.live} is live, with {index.n_live:,} passages in "
        yield ok(name, f"{what}{index.n_shards} shards" + (", and served" if served else ""))
    ahead = [version for version in index.versions if version > index.live]
    if ahead:
        yield note(
            name,
            f"version {', '.join(map(str, ahead))} never became live: a build died there",
            "the next build or prune takes it away",
        )


def index_room(facts: Facts) -> Iterator[Finding]:
    """Old versions and unfinished builds that hold disk."""
    index = facts.index
    if index is None or index.faults or not index.live:
        return
    name = "index-room"
    if index.n_prunable_bytes:
        versions = ", ".join(map(str, index.prunable))
        yield note(
            name,
            f"{_mib(index.n_prunable_bytes)} are held by version {versions}, which no cluster of "
            "this machine serves",
            f"'shoal index prune --index {index.place}' takes them away; 'rollback' needs them",
        )
    if index.n_unfinished_bytes:
        yield note(
            name,
            f"an interrupted build left {_mib(index.n_unfinished_bytes)}",
            "the same command goes on with it, --restart throws it away",
        )
    if not index.n_prunable_bytes and not index.n_unfinished_bytes:
        yield ok(name, "nothing but what is in use lies in the index's folder")


def _is_same(facts: Facts) -> bool:
    """Whether the index that was looked at is the one that the cluster serves."""
    index, cluster = facts.index, facts.cluster
    return bool(index and cluster and cluster.index == index.name
                and cluster.index_dir in {"", index.place})  # fmt: skip


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / _MIB:,.1f} MiB"
