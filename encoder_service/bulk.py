"""Encoding a corpus: as many texts a second as the machine gives, in process, no wire.

A chunk is tokenized at once and cut into batches of similar length. On a CPU whose backend gains
from it, batches run side by side on a core each: no pass then waits for its slowest thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from encoder_service.batching import plan_batches
from encoder_service.model import DualEncoder
from encoder_service.roles import Role
from encoder_service.tokenizing import TokenizedText
from shoal.contract import EncoderContract

Vectors = npt.NDArray[np.float32]


class PassageEncoder:
    """Encodes chunks of passages; a few thousand at a time let it sort them by length well."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder = encoder

    @property
    def contract(self) -> EncoderContract:
        """What an index built with these vectors must record."""
        return self._encoder.contract

    @property
    def dim(self) -> int:
        """Values a vector."""
        return self._encoder.contract.passage.dim

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> Vectors:
        """Vectors (n, dim) of passages, in their order; an empty title is none."""
        return self._encode(self._encoder.tokenize(texts, Role.PASSAGE, titles), Role.PASSAGE)

    def cuts(self, titles: Sequence[str], texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which passages are longer than the model is asked to read, (n,)."""
        tokenized = self._encoder.tokenize(texts, Role.PASSAGE, titles)
        return np.array([text.truncated for text in tokenized], dtype=np.bool_)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, dim) of questions, in their order."""
        return self._encode(self._encoder.tokenize(texts, Role.QUERY), Role.QUERY)

    def _encode(self, tokenized: list[TokenizedText], role: Role) -> Vectors:
        encoder = self._encoder
        vectors = np.empty((len(tokenized), self.dim), dtype=np.float32)
        batches = plan_batches([text.n_tokens for text in tokenized], encoder.stream_cost)
        side_by_side = encoder.n_streams > 1

        def run(rows: list[int]) -> None:
            batch = [tokenized[row] for row in rows]
            vectors[rows] = encoder.forward(batch, role, one_core=side_by_side)

        with ThreadPoolExecutor(encoder.n_streams, thread_name_prefix="encode") as streams:
            for _ in streams.map(run, batches):
                pass
        return vectors


class WholeTexts:
    """Which passages an encoder cuts, and the same model reading on, which `load` loads."""

    def __init__(self, encoder: PassageEncoder, load: Callable[[], DualEncoder]) -> None:
        self.cuts = encoder.cuts
        self._load = load

    def open(self) -> PassageEncoder:
        """Loads it."""
        return PassageEncoder(self._load())
