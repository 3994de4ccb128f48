"""The collector while a process starts, serves and ends."""

import subprocess
import sys

_CYCLE = """
import gc
from shoal import garbage
class Told:
    def __del__(self):
        print("collected")
def leave_a_cycle():
    told = Told()
    told.itself = told
"""


def printed(script: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", _CYCLE + script], capture_output=True, text=True, check=True,
        timeout=60,
    ).stdout  # fmt: skip


def test_nothing_is_looked_through_at_the_end():
    """With torch in memory that would take more than a second, for memory that goes anyway."""
    assert printed("leave_a_cycle()") == "collected\n"
    assert printed("garbage.collect_seldom(); leave_a_cycle()") == ""


def test_imports_are_looked_at_seldom_and_queries_as_usual():
    """A command's own cycles are collected all the same, and what a server has when it serves
    is never looked at again.
    """
    script = """
usual = gc.get_threshold()
garbage.collect_seldom()
assert gc.get_threshold()[0] > 10 * usual[0] or usual[0] == 0
leave_a_cycle()
kept = [[] for _ in range(100_000)]
print("seldom")
leave_a_cycle()
garbage.collect_new_alone()
print(gc.get_threshold() == usual, gc.get_freeze_count() > 100_000)
"""
    assert printed(script) == "collected\nseldom\ncollected\nTrue True\n"
