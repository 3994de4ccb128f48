"""A router without an HTTP port pays nothing for it."""

import subprocess
import sys

from router.service import SearchServicer


def test_a_router_without_the_port_loads_none_of_it():
    """Neither aiohttp nor the page: importing them takes longer than the rest of the router."""
    code = (
        "import sys, router.__main__\n"
        "print([name for name in sys.modules if name.startswith(('aiohttp', 'router.http'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_searches_are_not_watched():
    """The search is called as it is, with nothing around it."""
    from router.admission import Admission

    service = SearchServicer(None, None, Admission(8))
    assert service.answer.__func__ is SearchServicer._answer
