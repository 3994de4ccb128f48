"""The recalls that were measured lately of one version of an index, as a value. Pure.

Rule: versions never mix: another one's passages are other passages, and begin another window.
"""

from dataclasses import dataclass

import numpy as np

from router.recall import Estimate, estimate

MAX_SAMPLES = 1_000
MAX_AGE_S = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallWindow:
    """The last 1,000 measured queries of an hour at most: (when, recall), the oldest first."""

    version: int
    samples: tuple[tuple[float, float], ...] = ()

    def after(self, at_s: float, recall: float, *, version: int) -> "RecallWindow":
        """The window after one more query of `version` was measured."""
        kept = self.samples if version == self.version else ()
        samples = (*kept[-(MAX_SAMPLES - 1) :], (at_s, recall))
        return RecallWindow(version=version, samples=samples)

    def estimate(self, now_s: float) -> Estimate | None:
        """The mean and its interval; None where nothing was measured within the hour."""
        recalls = [recall for at_s, recall in self.samples if now_s - at_s < MAX_AGE_S]
        return estimate(np.array(recalls)) if recalls else None
