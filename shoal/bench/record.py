"""A whole run as one value: its stages' reports, what served, and under which circumstances.

It is what `--json` writes, `compare` reads and the HTML page shows. A run of one stage has that
stage's figures at the top level; one of several has them under `stages`.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.bench.report import LoadReport
from shoal.bench.target import Served
from shoal.errors import CorpusError

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRate:
    """What a search for the highest rate found: `calls_per_s` is None where none met the goal.

    `trials` are (rate, "" or what was missed), in the order in which they were run.
    """

    p99_ms: float
    recall: float | None
    calls_per_s: float | None
    why: str
    trials: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run against one target."""

    target: str
    adapter: str
    queries: str
    served: Served
    reports: tuple[LoadReport, ...]
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    max_rate: MaxRate | None = None

    @property
    def fault(self) -> str:
        """Why the run's figures can't be trusted; empty where they can.

        A search for a rate judges its trials itself: one that met the goal although the generator
        was late did meet it.
        """
        if self.max_rate is not None:
            return ""
        faults = (
            f"{report.label}: {report.generator.fault}"
            for report in self.reports
            if report.generator.fault
        )
        return next(faults, "")

    def to_dict(self) -> dict[str, Any]:
        """The run for JSON."""
        stages = [report.to_dict() for report in self.reports]
        return {
            "format": FORMAT,
            "target": self.target,
            "adapter": self.adapter,
            "queries": self.queries,
            **dataclasses.asdict(self.served),
            **self.circumstances,
            "notes": list(self.notes),
            "fault": self.fault,
            "max_rate": self.max_rate and dataclasses.asdict(self.max_rate),
            **(stages[0] if len(stages) == 1 else {"stages": stages}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunRecord":
        """The run that `to_dict` made."""
        left = dict(values)
        left.pop("format")
        left.pop("fault")
        stages = left.pop("stages", None)
        if stages is None:
            names = [f.name for f in dataclasses.fields(LoadReport)]
            stages = [{name: left.pop(name) for name in names}]
        found = left.pop("max_rate")
        if found is not None:
            found = MaxRate(**{**found, "trials": tuple(map(tuple, found["trials"]))})
        return cls(
            target=left.pop("target"),
            adapter=left.pop("adapter"),
            queries=left.pop("queries"),
            served=Served(index=left.pop("index"), version=left.pop("version")),
            reports=tuple(map(LoadReport.from_dict, stages)),
            notes=tuple(left.pop("notes")),
            max_rate=found,
            circumstances=left,
        )


def read_record(path: Path) -> RunRecord:
    """The run in a file that `--json` wrote.

    Raises:
        CorpusError: there is none, or it is of another format.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = values["format"]
        if known == FORMAT:
            return RunRecord.from_dict(values)
    except (OSError, ValueError) as failure:
        raise CorpusError(f"{path}: can't be read: {failure}") from failure
    except (KeyError, TypeError, AttributeError) as failure:
        raise CorpusError(
            f"{path}: is no run of this release; write one with shoal bench --json"
        ) from failure
    raise CorpusError(f"{path}: is of format {known!r}; this release reads {FORMAT}")
