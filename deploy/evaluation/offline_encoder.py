"""The index's model on this machine, in float32, for questions and passages."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from encoder_service.bulk import PassageEncoder
from encoder_service.model import DualEncoder, load_encoder
from shoal.contract import EncoderContract, disagreement
from shoal.errors import ConfigError
from shoal.vectors import Matrix


class Offline:
    """A dual encoder as `explain.OfflineEncoder` wants it."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._bulk = PassageEncoder(encoder)
        self.contract = encoder.contract
        self.dim = self._bulk.dim

    def encode(self, titles: Sequence[str], texts: Sequence[str]) -> Matrix:
        """Vectors (n, dim) of passages."""
        return self._bulk(titles, texts)

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        """Vectors (n, dim) of questions."""
        return self._bulk.encode_queries(texts)

    def cuts(self, titles: Sequence[str], texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which passages are cut, (n,)."""
        return self._bulk.cuts(titles, texts)


def open_offline(recorded: EncoderContract, device: str, *, whole_texts: bool) -> Offline:
    """The model of an index's contract.

    Args:
        recorded: the index's contract.
        device: where to encode.
        whole_texts: read on where the index's own would cut.

    Raises:
        ConfigError: the model is not here, or is another one.
    """
    encoder = Offline(
        load_encoder(
            recorded.model,
            device=device,
            dtype="float32",
            query_prompt=recorded.question.prompt,
            passage_prompt=recorded.passage.prompt,
            whole_texts=whole_texts,
        )
    )
    if not whole_texts and (fault := disagreement(recorded, encoder.contract)):
        raise ConfigError(fault)
    return encoder
