"""What `shoal index build` builds from: a corpus to encode, vectors to import, or an index.

Rule: exactly one source, told apart here and nowhere else; heavy imports happen for the one that
is asked for.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.output import note
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from encoder_service.bulk import PassageEncoder
    from shard_server.building.float32 import WholeTexts
    from shard_server.building.passage import Passage
    from shard_server.building.stage import PassageEncode
    from shoal.formats.manifest import Metric

DEFAULT_METRIC: "Metric" = "inner_product"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Passages and what makes their vectors.

    `metric` and `n_shards` are the defaults that the source suggests; `whole` is for whoever keeps
    float32.
    """

    passages: "Iterable[Passage]"
    encode: "PassageEncode"
    metric: "Metric" = DEFAULT_METRIC
    n_shards: int = 1
    whole: "WholeTexts | None" = None


def open_source(
    *,
    corpus: Sequence[str],
    vectors: str | None,
    from_index: Path | None,
    model: str,
    device: str,
    keep_float32: bool = False,
) -> Source:
    """The one source that was named.

    Args:
        corpus: what --corpus names, in order.
        vectors: FILE or FILE:part with a vector for each passage, in the same order.
        from_index: folder of an index to take passages and vectors from.
        model: encodes the corpus where there are no vectors.
        device: where it encodes.
        keep_float32: encode in float32, and know what is cut.

    Raises:
        ConfigError: no source, or two that exclude each other.
    """
    if keep_float32 and (from_index is not None or vectors is not None):
        raise ConfigError(
            "--keep-float32 keeps what the encoder makes of a --corpus; --vectors and --from "
            "encode nothing"
        )
    if from_index is not None:
        if corpus or vectors:
            raise ConfigError("--from takes passages and vectors from an index; give it alone")
        return _stored(from_index)
    if vectors is not None:
        return _given(vectors, corpus)
    if not corpus:
        raise ConfigError("nothing to build from: give --corpus PATH, --vectors FILE or --from DIR")
    return _encoded(corpus, model, device, keep_float32=keep_float32)


def told_model(model: str, begun_s: float) -> None:
    """Says how long loading took: a first one is exported, which is no part of the encoding."""
    note(f"model {model}: loaded in {time.monotonic() - begun_s:.1f} s")


def load_passage_encoder(
    model: str, device: str, *, keep_float32: bool
) -> "tuple[PassageEncoder, WholeTexts | None]":
    """The encoder of passages, in float32 where that is kept, and then what it cuts as well."""
    from encoder_service.bulk import PassageEncoder, WholeTexts
    from encoder_service.model import load_encoder

    begun_s = time.monotonic()
    dtype = "float32" if keep_float32 else "auto"
    encoder = PassageEncoder(load_encoder(model, device=device, dtype=dtype))
    told_model(model, begun_s)
    if not keep_float32:
        return encoder, None
    load_whole = partial(load_encoder, model, device=device, dtype=dtype, whole_texts=True)
    return encoder, WholeTexts(encoder, load_whole)


def _encoded(corpus: Sequence[str], model: str, device: str, *, keep_float32: bool) -> Source:
    encoder, whole = load_passage_encoder(model, device, keep_float32=keep_float32)
    return Source(passages=_read(corpus), encode=encoder, whole=whole)


def _given(vectors: str, corpus: Sequence[str]) -> Source:
    from shard_server.building.bring import bare_passages, matched, vectors_of
    from shard_server.building.vector_files import open_vector_file

    file = open_vector_file(vectors)
    passages = matched(_read(corpus), file) if corpus else bare_passages(file)
    return Source(passages=passages, encode=vectors_of(file))


def _stored(from_index: Path) -> Source:
    from shard_server.building.stored import StoredIndex

    stored = StoredIndex.open(from_index)
    return Source(
        passages=stored.passages(),
        encode=stored.encode(),
        metric=stored.manifest.metric,
        n_shards=len(stored.manifest.shards),
    )


def _read(corpus: Sequence[str]) -> "Iterable[Passage]":
    from shard_server.building.read import read_corpus

    return itertools.chain.from_iterable(read_corpus(source) for source in corpus)


def absolute_model(model: str) -> str:
    """The model as the index remembers it: folders by full path, so that `up` works anywhere."""
    parts = model.split(",")
    return ",".join(str(Path(part).resolve()) if Path(part).is_dir() else part for part in parts)
