"""What the Prometheus page tells of the replicas: counted when the page is asked for.

Reads one immutable `Served` from the page's own thread, and changes nothing. Knows no queries.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from router.served import Served
from router.standing import State


class StandingGauges(Collector):
    """How many replicas stand how, and how many shards can be searched."""

    def __init__(self, served: Callable[[], Served]) -> None:
        """`served` tells what is served now."""
        self._served = served

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families, without values."""
        return self._families(Served())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Counts."""
        yield from self._families(self._served())

    def _families(self, served: Served) -> Iterator[GaugeMetricFamily]:
        shards = GaugeMetricFamily("shoal_shards", "Shards of the index.", labels=["index"])
        live = GaugeMetricFamily(
            "shoal_shards_live", "Shards of which a replica can be asked.", labels=["index"]
        )
        replicas = GaugeMetricFamily(
            "shoal_shard_replicas",
            "Replicas of each shard, as this router sees them.",
            labels=["index", "shard", "state"],
        )
        encoders = GaugeMetricFamily(
            "shoal_encoder_replicas", "Encoders, as this router sees them.", labels=["state"]
        )
        for index in served.indexes.values():
            shards.add_metric([index.name], len(index.shards))
            live.add_metric([index.name], len(index.there))
            for number, of_shard in enumerate(index.shards):
                for state, n_replicas in count_states(r.standing.state for r in of_shard).items():
                    replicas.add_metric([index.name, str(number), state.value], n_replicas)
        for state, n_replicas in count_states(e.standing.state for e in served.encoders).items():
            encoders.add_metric([state.value], n_replicas)
        yield from (shards, live, replicas, encoders)


def count_states(states: Iterable[State]) -> dict[State, int]:
    """How many are in each state; 0 and not absent where none is, so that sums hold. Pure."""
    counted = dict.fromkeys(State, 0)
    for state in states:
        counted[state] += 1
    return counted
