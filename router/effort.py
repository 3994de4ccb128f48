"""How many lists to search when little time is left: fewer in time rather than all too late.

The cost of a round of searches is fitted as fixed + per_unit x queries x n_probe, by least squares
over what was seen lately (weights fall by half every `_HALF_LIFE` rounds). One n_probe is chosen
for all shards, before the fan-out, from the wanted one halved up to twice: so few different values
that queries still travel together. Pure; knows no clock, no shards and no protobuf.
"""

from typing import NamedTuple

FLOOR_SHARE = 4
"""n_probe is never less than wanted / 4, which on real vectors costs some .06 of recall@10."""

_HALF_LIFE = 200
_KEPT = 0.5 ** (1 / _HALF_LIFE)
_KNOWN_AFTER = 10  # rounds
_SAFETY = 2.0  # a round takes up to twice its mean, or many would still be late
_SPREAD = 1e-3  # below this relative variance of the units their slope can't be told


class CostModel(NamedTuple):
    """Decaying sums over rounds of `units` = queries x n_probe that took `seconds`.

    A tuple, because each search makes a new one.
    """

    n: float = 0.0
    units: float = 0.0
    seconds: float = 0.0
    units_squared: float = 0.0
    units_seconds: float = 0.0

    def seen(self, units: float, seconds: float) -> "CostModel":
        """The model after one more round."""
        return CostModel(
            n=self.n * _KEPT + 1,
            units=self.units * _KEPT + units,
            seconds=self.seconds * _KEPT + seconds,
            units_squared=self.units_squared * _KEPT + units * units,
            units_seconds=self.units_seconds * _KEPT + units * seconds,
        )

    def coefficients(self) -> tuple[float, float]:
        """(fixed seconds, seconds a unit), neither below 0; (0, 0) before anything was seen.

        Rounds that were all alike can't tell the two apart: half of their time is taken for fixed.
        """
        if not self.n or not self.units:
            return (self.seconds / self.n if self.n else 0.0), 0.0
        mean_units, mean_s = self.units / self.n, self.seconds / self.n
        variance = self.units_squared / self.n - mean_units * mean_units
        if variance <= _SPREAD * mean_units * mean_units:
            return mean_s / 2, mean_s / 2 / mean_units
        slope = (self.units_seconds / self.n - mean_units * mean_s) / variance
        slope = min(max(0.0, slope), mean_s / mean_units)
        return mean_s - slope * mean_units, slope

    def predicted_s(self, units: float) -> float:
        """How long a round of so many units takes, on average."""
        fixed_s, per_unit_s = self.coefficients()
        return fixed_s + per_unit_s * units


def choose_n_probe(wanted: int, *, n_queries: int, time_left_s: float, model: CostModel) -> int:
    """The largest of wanted, wanted / 2 and wanted / 4 that should be done in time.

    Where not even the least is, the least: it is the likeliest to be. Before the costs are known,
    or where n_probe is none (0), what was wanted.

    Args:
        wanted: lists to search a shard, where time is no matter.
        n_queries: in this call.
        time_left_s: for the round of searches.
        model: what rounds took lately.
    """
    if model.n < _KNOWN_AFTER:
        return wanted
    least = floor_of(wanted)
    chosen = wanted
    while chosen > least and model.predicted_s(n_queries * chosen) * _SAFETY > time_left_s:
        chosen = max(least, chosen // 2)
    return chosen


def floor_of(wanted: int) -> int:
    """The least n_probe that may stand for `wanted`."""
    return min(wanted, max(1, -(-wanted // FLOOR_SHARE)))
