"""What a tower is worth: questions that it never learned from, searched in passages neither.

The split is by group, so that no article is on both sides. Retrieval is exact.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from encoder_service.roles import Role
from encoder_service.training.pairs import PassageText, TrainingPair, text_key
from encoder_service.training.trainable import TrainableTowers
from encoder_service.training.world import World
from shoal.errors import ConfigError

DEPTHS = (1, 5, 20)
_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Questions, a corpus, and for each question the rows of its gold passages."""

    questions: tuple[str, ...]
    passages: tuple[PassageText, ...]
    golds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Success@k by k, the share of questions with a gold passage among the best k; and MRR."""

    success: dict[int, float]
    mrr: float


def split(
    pairs: Sequence[TrainingPair], *, share: float, max_questions: int, seed: int
) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """Pairs to learn from, and pairs held out: whole groups, chosen by a hash of their names.

    Pairs without a group go by their passage. Of few groups, of which the hash draws none (or all),
    the one that is nearest goes to the empty side. No question is on both sides, and no gold
    passage of a question that is held out is learned from, be it as a hard negative. At most
    `max_questions` pairs are held out; the others of their groups are left out of both.

    Raises:
        ConfigError: nothing would be left on one side.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share}; it must be between 0 and 1")
    draws = [_draw(pair.group or str(pair.positive_key), seed) for pair in pairs]
    bound = _between(share * 2**64, sorted(set(draws)))
    held = [draw < bound for draw in draws]
    held_pairs = [pair for pair, is_held in zip(pairs, held, strict=True) if is_held]
    held_golds = frozenset[int]().union(*(pair.gold_keys for pair in held_pairs))
    held_questions = {text_key(pair.question) for pair in held_pairs}
    learned = [
        replace(
            pair,
            hard_negatives=tuple(p for p in pair.hard_negatives if p.key not in held_golds),
        )
        for pair, is_held in zip(pairs, held, strict=True)
        if not is_held
        and pair.positive_key not in held_golds
        and text_key(pair.question) not in held_questions
    ]
    if not held_pairs or not learned:
        raise ConfigError(
            f"the data (pairs: {len(pairs):,}; titles, or passages without one: "
            f"{len(set(draws)):,}) can't be split into a part to learn from and a part to validate "
            "with; give more, or --validate with a set of its own"
        )
    if len(held_pairs) > max_questions:
        held_pairs.sort(key=lambda pair: _draw(pair.question, seed))
        held_pairs = held_pairs[:max_questions]
    return learned, held_pairs


def without_questions_of(
    pairs: Sequence[TrainingPair], validation: Sequence[TrainingPair]
) -> list[TrainingPair]:
    """The pairs whose questions are none of `validation`'s: who learned them isn't tested by them.

    Raises:
        ConfigError: there are no others.
    """
    asked = {text_key(pair.question) for pair in validation}
    others = [pair for pair in pairs if text_key(pair.question) not in asked]
    if not others:
        raise ConfigError("every question of --data is one of --validate; give other questions")
    return others


def held_out_of(pairs: Sequence[TrainingPair]) -> HeldOut:
    """The retrieval task of held-out pairs: all their passages, hard negatives among them."""
    passages: dict[int, PassageText] = {pair.positive_key: pair.positive for pair in pairs}
    for pair in pairs:
        passages |= {negative.key: negative for negative in pair.hard_negatives}
    rows = {key: row for row, key in enumerate(passages)}
    questions = {pair.question: pair.gold_keys for pair in pairs}
    return HeldOut(
        questions=tuple(questions),
        passages=tuple(passages.values()),
        golds=tuple(
            tuple(rows[key] for key in sorted(keys) if key in rows) for keys in questions.values()
        ),
    )


def measure(held_out: HeldOut, towers: TrainableTowers, world: World) -> Retrieval:
    """Exact search for every held-out question; the same figures in every process."""
    towers.evaluate()
    questions = _encode(towers, world, Role.QUERY, held_out.questions, None)
    passages = _encode(
        towers,
        world,
        Role.PASSAGE,
        [passage.text for passage in held_out.passages],
        [passage.title for passage in held_out.passages],
    )
    ranks: list[int] = []
    for start in range(0, len(questions), _ROWS):
        scores = questions[start : start + _ROWS] @ passages.T
        for row, golds in enumerate(held_out.golds[start : start + _ROWS]):
            ranks.append(rank_of_best(scores[row], golds))
    # every process must come to the same end, and scores may differ by device in the last bits
    rank = torch.from_numpy(world.as_led(np.array(ranks, dtype=np.int64))).double()
    return Retrieval(
        success={k: float((rank <= k).double().mean()) for k in DEPTHS},
        mrr=float((1 / rank).mean()),
    )


def rank_of_best(scores: torch.Tensor, golds: Sequence[int]) -> int:
    """The rank of the best of `golds` among (n,) scores: after all others that score as high.

    So vectors that have collapsed into one find nothing, and NaN finds nothing.
    """
    best = scores[list(golds)].max()
    not_below = ~(scores < best)
    not_below[list(golds)] = False
    return 1 + int(not_below.sum())


def _encode(
    towers: TrainableTowers,
    world: World,
    role: Role,
    texts: Sequence[str],
    titles: Sequence[str] | None,
) -> torch.Tensor:
    parts = [World(rank=rank, size=world.size).slice_of(len(texts)) for rank in range(world.size)]
    own = parts[world.rank]
    vectors = towers.encode_all(role, texts[own], None if titles is None else titles[own])
    return world.gather_rows(vectors, [part.stop - part.start for part in parts])


def _between(bound: float, draws: Sequence[int]) -> float:
    """`bound`, or the nearest to it that parts the sorted `draws` in two, where there are two."""
    if len(draws) < 2:
        return bound
    return min(max(bound, draws[0] + 1), draws[-1])


def _draw(name: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
