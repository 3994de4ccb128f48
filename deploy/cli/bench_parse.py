"""What the texts of `shoal bench`'s flags mean. Pure."""

import re
from typing import TYPE_CHECKING, Literal

from shoal.errors import InvalidArgumentError

if TYPE_CHECKING:  # needs hdrhistogram, which the bare install hasn't
    from shoal.bench.max_rate import Goal
    from shoal.bench.schedule import Stage

_DURATION = re.compile(r"([0-9.]+)\s*(ms|s)?")


def stages_asked(
    rate: str | None,
    clients: str | None,
    arrivals: Literal["constant", "poisson"],
    warmup_s: float,
    duration_s: float,
    *,
    find_max: bool,
) -> "list[Stage]":
    """The load asked for, step by step; where a search is, what its trials are like.

    Raises:
        InvalidArgumentError: saying what can't be.
    """
    from shoal.bench.schedule import Stage, parse_clients, parse_rates, stages_of

    if find_max and rate is None:
        if clients is not None:
            raise InvalidArgumentError("--find-max searches for a rate; leave --clients out")
        return [Stage(clients=1, arrivals=arrivals, warmup_s=warmup_s, duration_s=duration_s)]
    stages = stages_of(
        parse_rates(rate) if rate is not None else [],
        parse_clients(clients) if clients is not None else [],
        arrivals=arrivals,
        warmup_s=warmup_s,
        duration_s=duration_s,
    )
    if find_max and (len(stages) > 1 or stages[0].to_rate is not None):
        raise InvalidArgumentError("--find-max begins at one --rate, not at steps or a ramp")
    return stages


def goal_asked(p99: str | None, recall: float | None, *, find_max: bool) -> "Goal | None":
    """What a search for the highest rate must keep; None where there is no search.

    Raises:
        InvalidArgumentError: saying what can't be.
    """
    from shoal.bench.max_rate import Goal

    if not find_max:
        if p99 is not None or recall is not None:
            raise InvalidArgumentError("--p99 and --recall are goals of --find-max")
        return None
    if p99 is None:
        raise InvalidArgumentError("--find-max needs --p99, such as --p99 50ms")
    match = _DURATION.fullmatch(p99.strip())
    if match is None or not (number := _number(match[1])) > 0:
        raise InvalidArgumentError(f"--p99 is {p99!r}; it is a time such as 50ms or 0.05s")
    if recall is not None and not 0 < recall <= 1:
        raise InvalidArgumentError(f"--recall is {recall}; it is above 0, and 1 at most")
    return Goal(p99_ms=number * (1e3 if match[2] == "s" else 1.0), recall=recall)


def share_of(text: str) -> float:
    """A share, as 0.1 or 10%.

    Raises:
        InvalidArgumentError: it is none.
    """
    number = _number(text.strip().rstrip("%")) / (100 if "%" in text else 1)
    if not 0 <= number < 1:
        raise InvalidArgumentError(f"--threshold is {text!r}; it is a share such as 0.1 or 10%")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
