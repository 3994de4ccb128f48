"""A child starts on the port of the one that it replaces, so that clients keep their addresses.

Rule: who leaves gets the time that it may take to leave; then any port that is free is better than
none, unless the port was asked for.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from deploy.child import Child
from deploy.ray.options import RayOptions
from deploy.ray.processes import shutdown_s
from shoal.errors import StorageError

_PORT_S = 0.3
_RECONNECT_S = 2.0
"""Our clients try an address again within a second, and then ask for its health."""


async def start_listening(
    child: Child, options: RayOptions, on_change: Callable[[], None]
) -> float:
    """Starts the child on the port that it is to have, which who leaves may still hold.

    Returns:
        the seconds from the start that succeeded until it served.

    Raises:
        StorageError: the port that was asked for is not free in time.
        ShoalError: as `Child.start`.
    """
    until_s = time.monotonic() + shutdown_s(options)
    port = child.spec.port
    while True:
        begun_s = time.monotonic()
        try:
            await child.start(on_change)
        except StorageError:
            if not child.spec.port:
                raise
            if time.monotonic() > until_s:
                child.spec = replace(child.spec, port=options.port)
                if options.port:
                    raise
            await asyncio.sleep(_PORT_S)
        else:
            break
    took_s = time.monotonic() - begun_s
    if port:
        # Serve stops the next router once this one is started: clients must have found it
        await asyncio.sleep(_RECONNECT_S)
    return took_s
