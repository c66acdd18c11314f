"""The agent's log: an event with fields, one line each, for a person on a terminal and for a program elsewhere.

What libraries write with the standard library's logging, warnings, and exceptions that nobody caught come the same way.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import EventDict, Processor, WrappedLogger

_FIRST = ("time", "level", "event")
_LOGGER = "arpipam"


def configure(*, json: bool, stream: TextIO | None = None) -> None:
    """Log to the stream (default: standard error) from now on; a second call replaces the first.

    `json`: one JSON object a line. Else lines for a person where the stream is a terminal, and logfmt where it is not.
    """
    target = sys.stderr if stream is None else stream
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]
    terminal = not json and target.isatty()
    after: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if terminal:
        plain = structlog.dev.plain_traceback  # the rich one prints local variables, and a screenful of them
        after.append(structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=plain))
    else:
        after += [structlog.processors.format_exc_info, _in_order]
        after.append(structlog.processors.JSONRenderer(ensure_ascii=False) if json else _logfmt)
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


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What every line has comes first."""
    return {key: event[key] for key in (*_FIRST, *(key for key in event if key not in _FIRST)) if key in event}


def _logfmt(_: WrappedLogger, __: str, event: EventDict) -> str:
    """As logfmt. Unlike structlog's renderer, which raises for a key with a space, this one loses no line."""
    return " ".join(f"{re.sub(r'[^!#-<>-~]', '_', str(key))}={_value(value)}" for key, value in event.items())


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if re.fullmatch(r"[!#-<>-\[\]-~]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped)
    return f'"{printable}"'


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
