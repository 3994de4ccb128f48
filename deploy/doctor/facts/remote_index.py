"""An index at a URL: its live manifest and, if asked, each file's checksum where it lies."""

from deploy.doctor.facts.index import IndexFacts, index_bytes
from deploy.index_place import IndexPlace
from shoal.errors import ShoalError
from shoal.formats.remote_store import open_remote
from shoal.formats.remote_verify import verify_remote
from shoal.formats.versions import list_versions


def read_remote_index(place: IndexPlace, *, deep: bool) -> IndexFacts:
    """What lies at the URL; nothing is copied. Without `deep` no file but the manifest is read."""
    try:
        live = place.manifest()
        with place.manifests() as folder:
            versions = list_versions(folder)
        report = verify_remote(open_remote(place.url), lambda *_: None) if deep else None
    except ShoalError as failure:
        return IndexFacts(place=str(place), faults=(failure.message,))
    n_bytes = sum(entry.n_bytes for entry in live.entries())
    return IndexFacts(
        place=str(place),
        faults=tuple(report.faults) if report else (),
        name=live.name,
        live=live.version,
        versions=versions,
        created_at=live.created_at,
        devices=live.devices,
        n_live=live.n_live,
        n_shards=len(live.shards),
        n_segments=sum(len(shard.segments) for shard in live.shards),
        n_files=len(live.entries()),
        n_bytes=n_bytes,
        n_hashed_bytes=n_bytes if deep else 0,
        is_deep=deep,
        index_bytes=index_bytes(live),
    )
