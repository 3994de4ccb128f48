"""Python's garbage collector while a process starts and ends.

Rule: what imports make is no garbage. By its own thresholds the collector walks all of it again and
again while torch comes, and once more before the process ends: a third of the time of a command
that loads an encoder. Knows nothing of what is imported.
"""

import atexit
import gc

_USUAL = gc.get_threshold()
_STARTING = 20_000
"""New objects between two looks: an encoder's imports leave half a million."""


def collect_seldom() -> None:
    """Has the collector look less often from now on, and not at all when the process ends."""
    gc.set_threshold(_STARTING, *_USUAL[1:])
    atexit.register(gc.freeze)


def collect_new_alone() -> None:
    """Takes all that is there now out of collection, and collects what comes as usual.

    To walk what stays would take longer than a query does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL)
