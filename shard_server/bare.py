"""faiss's own search over an index's files, with nothing of ours around it: for comparison.

Rule: one `IndexRefine.search` a segment, as a script over faiss would do it; the segments' hits are
merged by score. Must not be used to serve: ties fall as they like, and nothing bounds the work.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.segment import SegmentData, read_segment
from shoal.errors import ConfigError
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest
from shoal.vectors import Matrix

Places = npt.NDArray[np.int64]

# faiss's stubs leave out the keywords that its Python layer gives to every parameter class
_ivf_parameters: Any = faiss.SearchParametersIVF
_refine_parameters: Any = faiss.IndexRefineSearchParameters


class BareIndex:
    """All segments of an index's live version, in this process."""

    def __init__(self, index_dir: Path) -> None:
        """Reads the index.

        Raises:
            IndexFormatError: it can't be read.
            ConfigError: passages were superseded, which a bare search would still find.
        """
        self.manifest: Manifest = load_manifest(index_dir)
        self._segments: list[SegmentData] = []
        self.n_live: list[int] = []
        for shard in self.manifest.shards:
            for segment in shard.segments:
                if segment.n_live != segment.n_rows:
                    raise ConfigError(f"{index_dir}: has superseded passages; build it again")
                if segment.n_rows:
                    self._segments.append(read_segment(index_dir, self.manifest, segment))
                    self.n_live.append(segment.n_live)
        self._refined = [
            None if data.index is None else faiss.IndexRefine(data.index, data.vectors)
            for data in self._segments
        ]

    def search(
        self, query_vectors: Matrix, k: int, *, n_probe: int, candidates: Sequence[int]
    ) -> tuple[Places, Places]:
        """The best `k` of each query: segment numbers and rows, (n_queries, k), -1 for none.

        Args:
            query_vectors: float32 (n_queries, dim).
            k: hits wanted.
            n_probe: lists searched.
            candidates: to rescore, a segment of `n_live`; 0 for none.
        """
        parts = []
        for data, refined, wanted in zip(self._segments, self._refined, candidates, strict=True):
            if refined is None:
                parts.append(data.vectors.search(query_vectors, k))
                continue
            base = _ivf_parameters(nprobe=n_probe) if self.manifest.n_lists else None
            if not wanted:
                parts.append(data.index.search(query_vectors, k, params=base))
                continue
            # faiss takes int(k * k_factor) candidates: the half keeps it from rounding down
            params = _refine_parameters(k_factor=max(1.0, (wanted + 0.5) / k),
                                        base_index_params=base)  # fmt: skip
            parts.append(refined.search(query_vectors, k, params=params))
        return self._merged(parts, k)

    def exact(self, query_vectors: Matrix, k: int) -> tuple[Places, Places]:
        """As `search`, over every stored vector."""
        return self._merged([data.vectors.search(query_vectors, k) for data in self._segments], k)

    def passages(self, segments: Places, rows: Places, columns: Sequence[str]) -> list[list[str]]:
        """The columns of one query's hits, best first: a list a column, of as many as there are."""
        found: list[list[str]] = [[] for _ in columns]
        for segment, row in zip(segments.tolist(), rows.tolist(), strict=True):
            if row < 0:
                continue
            texts = self._segments[segment].passages.take(np.array([row]), columns)
            for column, name in zip(found, columns, strict=True):
                column.append(texts[name].data.decode())
        return found

    def _merged(self, parts: Sequence[tuple[Any, Any]], k: int) -> tuple[Places, Places]:
        sign = -1.0 if self.manifest.metric == "inner_product" else 1.0
        distances = np.concatenate([sign * scores for scores, _ in parts], axis=1)
        rows = np.concatenate([part_rows for _, part_rows in parts], axis=1)
        distances[rows < 0] = np.inf
        segments = np.repeat(np.arange(len(parts)), [part[1].shape[1] for part in parts])
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return segments[best], np.take_along_axis(rows, best, axis=1)
