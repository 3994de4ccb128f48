"""The load generator as a program: a plan on stdin, a report on stdout."""

import asyncio
import json
import sys

from shoal.bench.load import measure
from shoal.bench.plan import LoadPlan
from shoal.errors import InvalidArgumentError, ShoalError


def main() -> None:
    """Runs one plan; a plan that can't be run is one line on stderr."""
    try:
        report = asyncio.run(measure(LoadPlan.from_json(sys.stdin.read())))
    except ShoalError as failure:
        sys.stderr.write(f"{failure.message}\n")
        sys.exit(InvalidArgumentError.exit_code)
    sys.stdout.write(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main()
