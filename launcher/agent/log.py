"""The agent's log: an event with fields, one line each, for a person on a terminal and for a program elsewhere.

What libraries write with the standard library's logging, warnings, and exceptions that nobody caught come the same way.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from typing import TYPE_CHECKING, TextIO, cast

import structlog

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import EventDict, Processor, WrappedLogger

_FIRST = ("time", "level", "event")
_LOGGER = "arpipam"


def configure(*, stream: TextIO | None = None) -> None:
    """Log to the stream (default: standard error) from now on; a second call replaces the first.

    Lines are for a person where the stream is a terminal, and logfmt where it is not.
    """
    target = sys.stderr if stream is None else stream
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]
    after: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if target.isatty():
        plain = structlog.dev.plain_traceback  # the rich one prints local variables, and a screenful of them
        after.append(structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=plain))
    else:
        renderer = structlog.processors.LogfmtRenderer(key_order=_FIRST, drop_missing=True, bool_as_flag=False)
        after += [structlog.processors.format_exc_info, _printable, renderer]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.ExtraAdder(), _from_library], processors=after
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def logger() -> structlog.stdlib.BoundLogger:
    """The agent's logger: `logger().info("claimed", address=…, mac=…)`."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(_LOGGER))


def _from_library(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A library's line says whose it is."""
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keys and values that logfmt can hold: no line is refused for a key, or becomes two by a value."""
    return {
        re.sub(r"[^!#-<>-~]", "_", str(key)): value if value is None or isinstance(value, bool) else _value(str(value))
        for key, value in event.items()
    }


def _value(text: str) -> str:
    """Control characters escaped; line ends are left to the renderer."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, /, **fields: object
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logger().critical("uncaught exception", exc_info=(kind, error, trace), **fields)


def _uncaught_in_thread(told: threading.ExceptHookArgs, /) -> None:
    if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
        name = told.thread.name if told.thread is not None else ""
        _uncaught(told.exc_type, told.exc_value, told.exc_traceback, thread=name)
