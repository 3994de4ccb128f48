"""The load generator: `run_load` for scripts, `shoal bench` for people."""

from shoal.bench.load import run_load
from shoal.bench.plan import LoadPlan
from shoal.bench.report import Latency, LoadReport
from shoal.bench.schedule import Stage

__all__ = ["Latency", "LoadPlan", "LoadReport", "Stage", "run_load"]
