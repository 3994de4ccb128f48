"""How a child process finds the packages that this process was started from."""

import os
from pathlib import Path

import shoal

_ROOT = Path(shoal.__file__).resolve().parents[1]


def import_environment() -> dict[str, str]:
    """What to add to a child's environment so that it imports the same Shoal.

    An installed package is found without help; a checkout is not, since our children don't look
    for modules in the folder that they are started in.
    """
    if _ROOT.name in {"site-packages", "dist-packages"}:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))}
