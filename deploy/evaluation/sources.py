"""What `--set` names, and the corpus that a baseline searches."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ConfigError, CorpusError
from shoal.evaluation.rankings import Found
from shoal.evaluation.sets import QuestionSet, read_set

_SET = re.compile(r"(?:(?P<name>[^=/]+)=)?(?:(?P<index>[a-z0-9_-]{1,64}):)?(?P<path>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSource:
    """One set to measure: its questions, the index that is asked, and its own corpus if any."""

    questions: QuestionSet
    index: str = ""
    corpus: str = ""


def parse_set(given: str, index: str) -> SetSource:
    """`[NAME=][INDEX:]FOLDER`, FOLDER being a BEIR folder or DPR's .json.

    Args:
        given: what stands after --set.
        index: the index to ask where `given` names none.

    Raises:
        CorpusError: the folder lacks questions or judgments.
        ConfigError: it names nothing.
    """
    match = None if Path(given).exists() else _SET.fullmatch(given)
    name, of_index, path = (
        ("", None, given) if match is None else match.group("name", "index", "path")
    )
    if not Path(path).exists():
        raise ConfigError(f"--set {given}: no such folder; it is [NAME=][INDEX:]FOLDER")
    questions = read_set(Path(path), name or "")
    return SetSource(
        questions=questions,
        index=of_index or index,
        corpus=path if Path(path).is_dir() else "",
    )


def read_passages(corpus: str) -> list[Found]:
    """The corpus in its own order, with no scores yet.

    Raises:
        CorpusError: beginning with file:line; also for an id that was there before, since a figure
            could not say which of the two was found.
    """
    from shard_server.building.read import read_corpus  # noqa: PLC0415 -- the cluster needs none

    passages, seen = [], set()
    for p in read_corpus(corpus):
        if p.id in seen:
            raise CorpusError(f"{p.where}: id {p.id!r} was used before")
        seen.add(p.id)
        passages.append(Found(p.id, 0.0, p.title, p.text))
    return passages


def check_corpus(corpus: str) -> None:
    """Refuses a corpus that isn't there, or not one, by its first passage.

    Raises:
        CorpusError: as `read_passages`.
    """
    from shard_server.building.read import read_corpus  # noqa: PLC0415 -- the cluster needs none

    for _ in read_corpus(corpus):
        return


def check_names(sources: Sequence[SetSource]) -> None:
    """Refuses sets of one name: nobody could tell whose figures are whose.

    Raises:
        ConfigError: naming the first.
    """
    seen = set()
    for source in sources:
        name = source.questions.name
        if name in seen:
            raise ConfigError(f"two sets are named {name!r}; name them: --set NAME=FOLDER")
        seen.add(name)
