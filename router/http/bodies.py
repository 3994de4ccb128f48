"""Request bodies, read within a limit of bytes and of time. Knows no endpoint."""

import asyncio
import json
from typing import Any

from aiohttp import web

from router.http.refusals import SlowSenderError, TooLargeError
from shoal.errors import InvalidArgumentError
from shoal.rpc.limits import MAX_MESSAGE_BYTES

BODY_S = 20.0
"""In which a body must have come: 16 MiB at 7 Mbit/s."""


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body, one JSON object.

    Raises:
        InvalidArgumentError: it is none, or not said to be JSON.
        TooLargeError, SlowSenderError: it is too long, or too long in coming.
    """
    if request.content_type != "application/json":
        # a form can be sent by any site's page without asking; JSON can't
        raise InvalidArgumentError(
            f"the body is said to be {request.content_type[:100]}; send Content-Type: "
            "application/json"
        )
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge as failure:
        raise TooLargeError(
            f"the body has more than {MAX_MESSAGE_BYTES >> 20} MiB; send fewer queries a call"
        ) from failure
    except TimeoutError as failure:
        raise SlowSenderError(f"the body did not come within {BODY_S:g} s") from failure
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as failure:  # also a number of 5,000 digits
        why = str(failure) if isinstance(failure, json.JSONDecodeError) else "it can't be read"
        raise InvalidArgumentError(f"the body is not valid JSON: {why}") from failure
    if not isinstance(content, dict):
        raise InvalidArgumentError("the body must be a JSON object")
    return content
