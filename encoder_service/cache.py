"""The vectors of questions that come again: least recently used leaves first.

Keyed by the text alone: one process serves one model.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedQuery:
    """A question's vector (dim,) and whether its text was cut."""

    vector: npt.NDArray[np.float32]
    truncated: bool


class QueryCache:
    """At most `n_entries` questions; 0 keeps none. For one thread."""

    def __init__(self, n_entries: int) -> None:
        self._n_entries = n_entries
        self._entries: OrderedDict[str, CachedQuery] = OrderedDict()

    def get(self, text: str) -> CachedQuery | None:
        """What is kept of `text`, which is now the most recently used."""
        entry = self._entries.get(text)
        if entry is not None:
            self._entries.move_to_end(text)
        return entry

    def put(self, text: str, entry: CachedQuery) -> None:
        """Keeps `entry`; the vector is copied, so that no batch stays alive for one row."""
        if not self._n_entries:
            return
        self._entries[text] = CachedQuery(vector=entry.vector.copy(), truncated=entry.truncated)
        self._entries.move_to_end(text)
        while len(self._entries) > self._n_entries:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
