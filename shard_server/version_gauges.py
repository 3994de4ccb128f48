"""What the Prometheus page tells of the versions that are open: read when the page is asked for.

Knows `Versions`, and neither searches nor the wire.
"""

from shard_server.versions import Versions
from shoal.rpc import metrics


def tell_versions(versions: Versions, index: str) -> None:
    """Tells of the index that this process serves, once its first version is open."""

    def newest() -> float:
        indexes = versions.open_indexes
        return indexes[-1].manifest.version if indexes else 0

    def n_passages() -> float:
        indexes = versions.open_indexes
        return indexes[-1].manifest.shards[versions.shard].n_live if indexes else 0

    metrics.INDEX_VERSION.labels(index).set_function(newest)
    metrics.OPEN_VERSIONS.labels(index).set_function(lambda: len(versions.open_indexes))
    metrics.SERVED_PASSAGES.labels(index, str(versions.shard)).set_function(n_passages)
