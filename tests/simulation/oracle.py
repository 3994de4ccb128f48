"""What must hold of a schedule that was played, whatever befell it. Pure.

1. Every question ends, by its deadline: with an answer, or with an error that it may have.
2. An answer has one version, the one served when the question came; each shard's outcome once; a
   coverage that is exactly what its OK shards hold, and at least min_coverage; the hits that those
   shards have, each with its own passage, and no others.
3. A shard that is called OK gave a true reply to this very question meanwhile.
4. Extra calls stay within their budgets, and every budgeted call was wanted.
5. Nothing is under way when all has ended, and everything is well again.
"""

import asyncio

from simulation.corpus import N_VERSIONS, passage_id
from simulation.process import ShardProcess
from simulation.schedule import Question
from simulation.world import LAST, Answered, CountedBudget, Played

from router.outcomes import Outcome
from shoal.errors import (
    DeadlineExceededError,
    InsufficientCoverageError,
    OverloadedError,
    UnavailableError,
)
from shoal.v1 import search_pb2 as pb

TOLERANCE_S = 0.002
"""A timer of the loop, and one more: no CPU time passes in simulated time."""
AT_ONCE_S = 0.0001
ENOUGH_S = 0.3
"""With this much time and nothing broken, every question is answered."""
ENOUGH_TO_FIND_S = 1.5
"""A frozen replica is late after 0.25 s, asked after itself for 0.4, and then left."""


def check(played: Played) -> None:
    """Raises AssertionError for what doesn't hold."""
    assert not played.logged, played.logged
    assert not played.left_over, played.left_over
    assert len(played.answers) == len(played.schedule.questions) + 1, "every question ends"
    for answered in played.answers:
        _check_time(answered)
        if answered.response is None:
            _check_error(played, answered)
        else:
            _check_answer(played, answered, answered.response)
    _check_budgets(played)
    _check_moves(played)


def _check_time(answered: Answered) -> None:
    question = answered.question
    took_s = answered.ended_s - answered.begun_s
    assert took_s <= question.timeout_s + TOLERANCE_S, f"too late: {took_s} s of {question}"
    if _is_the_routers_refusal(answered.error):
        assert took_s < AT_ONCE_S, "a refusal comes at once"


def _is_the_routers_refusal(error: BaseException | None) -> bool:
    """And not what is said where full shards are missing, which takes a round."""
    return isinstance(error, OverloadedError) and not error.message.startswith("coverage")


def _check_error(played: Played, answered: Answered) -> None:
    question, error = answered.question, answered.error
    if question.leaves_after_s is not None and isinstance(error, asyncio.CancelledError):
        return
    may_end_with = {OverloadedError}
    if question.min_coverage != 0.0:  # 0 is never refused for coverage, nor for being late
        may_end_with |= {InsufficientCoverageError, DeadlineExceededError}
    if all(process.was_harmed for process in played.replicas):
        may_end_with.add(UnavailableError)  # nobody may be left who knows what the index is
    assert type(error) in may_end_with, f"{error!r} to {question}"
    assert question is not LAST, f"not well again: {error!r}"
    if _is_the_routers_refusal(error):
        return
    assert not _must_be_answered(played, question), f"{error!r} for no reason"


def _must_be_answered(played: Played, question: Question) -> bool:
    """Whether nothing is broken, or each shard has a sound replica and there is time to find it."""
    if not any(process.was_harmed for process in played.replicas):
        return question.timeout_s >= ENOUGH_S
    assert isinstance(played.budgets.retries, CountedBudget)
    has_sound = all(any(not r.was_harmed for r in replicas) for replicas in played.processes)
    has_budget = not played.budgets.retries.n_refused
    return has_sound and has_budget and question.timeout_s >= ENOUGH_TO_FIND_S


def _check_answer(played: Played, answered: Answered, response: pb.SearchResponse) -> None:
    corpus, question, version = played.schedule.corpus, answered.question, answered.version
    assert response.version == version, f"version {response.version} instead of {version}"
    told = [(shard.shard, shard.n_live) for shard in response.shards]
    assert told == list(enumerate(corpus.n_live[version])), f"not each shard once: {told}"
    ok = {shard.shard for shard in response.shards if shard.outcome == Outcome.OK}
    covered = corpus.coverage(version, ok)
    assert response.coverage == covered, f"coverage {response.coverage} is not {covered}"
    wanted = 1.0 if question.min_coverage is None else question.min_coverage
    assert response.coverage >= wanted, f"coverage {response.coverage} is below {wanted}"
    assert len(response.results) == len(question.numbers)
    for number, result in zip(question.numbers, response.results, strict=True):
        right = corpus.answer(version, ok, number, k=question.k, offset=question.offset)
        found = [(hit.score, hit.ordinal) for hit in result.hits]
        assert found == right, f"hits {found} are not {right}"
        for hit in result.hits:
            assert hit.passage.id == hit.passage.title == passage_id(version, hit.ordinal)
            assert hit.shard == corpus.shard_of(version, hit.ordinal)
        for shard in ok:
            replicas = played.processes[shard]
            replied = any(_replied(process, answered, version, number) for process in replicas)
            assert replied, f"shard {shard} never told the truth"


def _replied(process: ShardProcess, answered: Answered, version: int, number: int) -> bool:
    return any(
        answered.begun_s <= at_s <= answered.ended_s
        for at_s in process.honest.get((version, number), ())
    )


def _check_budgets(played: Played) -> None:
    for budget in (played.budgets.retries, played.budgets.hedges):
        assert isinstance(budget, CountedBudget)
        # a schedule is shorter than the retries' window; hedges' windows follow each other
        bound = budget.floor + budget.share * budget.n_offered
        assert budget.n_granted <= bound, f"{budget.n_granted} extra calls, above {bound}"
    assert played.extras == {
        "retries": played.budgets.retries.n_granted,
        "hedges": played.budgets.hedges.n_granted,
    }


def _check_moves(played: Played) -> None:
    for move, failure, served in played.moved:
        if failure is None:
            assert served == move.version <= N_VERSIONS
    assert len(played.moved) == len(played.schedule.moves), "every move ends"
    router, file = played.served_versions
    assert router == file
    went_to = {1, *(move.version for move, failure, _ in played.moved if failure is None)}
    assert router in went_to
