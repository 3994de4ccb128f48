"""Answers on their way out, within a limit of time: a peer that doesn't read keeps no memory."""

import asyncio

from aiohttp import web

SEND_S = 30.0
"""In which the peer must have taken an answer."""
_PIECE_BYTES = 256 * 1024
_WHOLE_BYTES = 64 * 1024
"""What one write hands over to the kernel at once."""


async def send(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Sends `answer`; the connection is cut where it isn't taken in time."""
    body = answer.body
    if not isinstance(body, bytes) or len(body) <= _WHOLE_BYTES:
        return answer
    sent = web.StreamResponse(status=answer.status, headers=answer.headers)
    sent.content_length = len(body)
    try:
        async with asyncio.timeout(SEND_S):
            await sent.prepare(request)
            for start in range(0, len(body), _PIECE_BYTES):
                # waits until the peer has taken most of what went before
                await sent.write(body[start : start + _PIECE_BYTES])
            await sent.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer was not taken in time") from None
    return sent
