"""Log lines: JSON for programs, text for a terminal, each with the request id of its call.

Nothing here hides a secret: the rule is that none is handed to a logger.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Literal, TextIO

from shoal.rpc.request_id import current_request_id
from shoal.tracing.spans import current_trace

Form = Literal["auto", "json", "text"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, process, logger, message, request_id, trace_id
    where the call is traced, extras.
    """

    def __init__(self, prog: str) -> None:
        super().__init__()
        self._prog = prog

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        told = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._prog,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # set while the call is served; a line about another call names it itself
        if request_id := current_request_id():
            told["request_id"] = request_id
        if (trace := current_trace()) is not None:
            told["trace_id"] = f"{trace.trace_id:032x}"
        extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**told, **extras}, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: the request id stands in brackets."""

    def __init__(self, prog: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {prog} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line's text, before any traceback."""
        request_id = current_request_id()
        known = not request_id or request_id in record.message
        return super().formatMessage(record) + ("" if known else f" [{request_id}]")


def start_logging(prog: str, *, level: str, form: Form, stream: TextIO) -> None:
    """Sends every logger's lines of `level` and above to `stream`."""
    as_text = form == "text" or (form == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(prog) if as_text else JsonFormatter(prog))
    logging.basicConfig(level=level.upper(), handlers=[handler])
