"""Whether the shards that are there, or that answered, are enough for a query, and which error says
that they aren't. Pure.
"""

from collections.abc import Collection, Mapping

from router.fanout import Replies
from router.outcomes import Outcome, ShardOutcome
from router.query import SearchQuery
from shoal.errors import DeadlineExceededError, InsufficientCoverageError, OverloadedError


def refuse_hopeless(query: SearchQuery, there: Collection[int]) -> None:
    """Fails before any work where the shards that are there can't be enough.

    Raises:
        InsufficientCoverageError: they hold fewer passages than the query asks for.
    """
    coverage = query.index.coverage(there)
    if coverage < query.min_coverage:
        missing = sorted(set(range(len(query.index.n_live_by_shard))) - set(there))
        raise _too_little(query, coverage, f"down: shards {missing}")


def refuse_too_little(query: SearchQuery, replies: Replies) -> None:
    """Fails where the shards that answered are not enough.

    Raises:
        DeadlineExceededError: those that are missing were late, all of them.
        OverloadedError: they were full, all of them.
        InsufficientCoverageError: they are missing for another reason.
    """
    coverage = query.index.coverage(replies.by_shard.keys())
    if coverage < query.min_coverage:
        missing = {
            shard: outcome
            for shard, outcome in sorted(replies.outcomes.items())
            if outcome.outcome is not Outcome.OK
        }
        why = ", ".join(
            f"shard {shard} {outcome.outcome.name} ({outcome.detail})"
            for shard, outcome in missing.items()
        )
        if _all_are(missing, Outcome.LATE):  # only the time was too little
            if len(missing) == len(replies.outcomes):
                raise DeadlineExceededError("no shard answered by the deadline")
            raise DeadlineExceededError(_told(query, coverage, why))
        refusal = _too_little(query, coverage, why)
        # others were given up because of the full ones: nothing is known to be wrong with them
        full = {s: o for s, o in missing.items() if not o.is_collateral}
        if full and _all_are(full, Outcome.OVERLOADED):
            after_s = max(outcome.retry_after_s for outcome in full.values())
            raise OverloadedError(refusal.message, retry_after_s=after_s)
        raise refusal


def _all_are(outcomes: Mapping[int, ShardOutcome], outcome: Outcome) -> bool:
    return all(told.outcome is outcome for told in outcomes.values())


def _too_little(query: SearchQuery, coverage: float, why: str) -> InsufficientCoverageError:
    return InsufficientCoverageError(_told(query, coverage, why))


def _told(query: SearchQuery, coverage: float, why: str) -> str:
    return f"coverage is {coverage:.4g}, below min_coverage {query.min_coverage:.4g}; {why}"
