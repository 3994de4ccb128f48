"""`make bench`: Shoal, faiss in process and a `/retrieve` server, on one index and one encoder.

Writes .build/bench/serving/result.{json,md,html} and prints the tables. Exit code 1 where a figure
is the load generator's own, or a contestant failed; the files are written all the same. So they are
at a Ctrl-C, with what was measured until then; the code is 130.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.corpora import WORK
from bench.serving.contest import Clock, Lanes, Rules, compare
from bench.serving.contestants import Contestant, contestants, plan_for, start_all
from bench.serving.ground import Ground, prepare
from bench.serving.lane import Lane
from bench.serving.loads import FIELD
from bench.serving.page import page
from bench.serving.result import CUT_SHORT, Result
from bench.serving.tables import markdown
from shoal.bench.environment import describe_run
from shoal.errors import ShoalError

QUICK = Rules(n_rounds=1, warmup_s=0.3, duration_s=0.7, trial_warmup_s=0.2, trial_s=0.8)
_INTERRUPTED = 130
_PACKAGES = ("torch", "transformers", "onnxruntime", "fastapi", "uvicorn")


def main() -> None:
    """Compares, and ends with an exit code: a line says what went wrong."""
    # asyncio cancels at a SIGINT that Python handles, which is ignored in a script's background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = _run(_given())
    except ShoalError as failure:
        sys.exit(f"bench: error: {failure.message}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    for fault in result.faults:
        _say(f"NOT TO BE TRUSTED: {fault}")
    if not result.is_whole:
        sys.exit(_INTERRUPTED)
    sys.exit(1 if result.faults else 0)


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", help="default: WordNet beside the checkout, else python-docs")
    parser.add_argument("--queries", type=Path, help="default: SQuAD's beside the checkout, else "
                        "titles and sentences of the corpus")  # fmt: skip
    parser.add_argument("--shards", type=int, default=2, help="of Shoal's index")
    parser.add_argument("--rounds", type=int, default=Rules().n_rounds)
    parser.add_argument("--seconds", type=float, default=Rules().duration_s,
                        help="measured, of each closed loop and round")  # fmt: skip
    parser.add_argument("--within", type=float, default=570.0, metavar="S",
                        help="seconds for everything once the index is there")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--quick", action="store_true", help="does it run? figures mean nothing")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> Result:
    """Prepares, starts everybody, compares them, and writes what was found."""
    rules = Rules(n_rounds=given.rounds, duration_s=given.seconds, seed=given.seed)
    if given.quick:
        rules = dataclasses.replace(QUICK, seed=given.seed)
    circumstances = _circumstances(rules)
    ground = prepare(given.corpus, given.queries, given.shards)
    _say(ground.told)
    clock = Clock(until_s=time.monotonic() + given.within)
    everybody = contestants(ground, given.shards)
    notes = ("a quick run: its figures mean nothing",) if given.quick else ()
    with ExitStack() as servers:
        targets, failures = start_all(everybody, servers, clock.until_s, _say)
        lanes = _lanes(everybody, targets, ground)
        found, is_whole = asyncio.run(compare(lanes, failures, rules, clock, _say))
        if not found.has_figures and not is_whole:
            raise KeyboardInterrupt  # the last run's files are worth more than none
        cells, knees = found.ended(CUT_SHORT)
        result = Result(
            ground=ground.told,
            about={one.name: one.about for one in everybody},
            cells=cells,
            knees=knees,
            circumstances=circumstances,
            notes=notes,
            is_whole=is_whole,
        )
        print(_write(result), flush=True)
    return result


def _lanes(everybody: list[Contestant], targets: Mapping[str, str], ground: Ground) -> Lanes:
    return {
        (one.name, kind): Lane(
            plan_for(targets[one.name], kind, ground, adapter=one.adapter), ground.truth[kind]
        )
        for one in everybody
        if one.name in targets
        for kind, names in FIELD.items()
        if one.name in names
    }


def _write(result: Result) -> str:
    """Writes all three forms; returns the Markdown."""
    folder = WORK / "serving"
    text = markdown(result)
    (folder / "result.json").write_text(json.dumps(result.to_dict(), indent=1) + "\n")
    (folder / "result.md").write_text(text)
    (folder / "result.html").write_text(page(result))
    return f"{text}\nwritten: {folder}/result.md, result.html, result.json"


def _circumstances(rules: Rules) -> dict[str, Any]:
    told = describe_run(sys.argv[1:], rules.seed)
    told["command"] = " ".join(["python -m bench.serving", *sys.argv[1:]])
    told["versions"] |= {name: metadata.version(name) for name in _PACKAGES}
    told["niceness"] = os.nice(0)
    return {**told, "rules": dataclasses.asdict(rules)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
