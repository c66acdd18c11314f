"""The agent's log: one line each, whoever writes, and none that is lost."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from launcher.agent import log

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()


def lines(stream: io.StringIO | None = None) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    log.configure(stream=stream)
    return stream


def only(stream: io.StringIO) -> dict[str, str]:
    """The fields of the one line that was written."""
    (line,) = stream.getvalue().splitlines()
    found = re.findall(r'(\S+?)=("(?:[^"\\]|\\.)*"|\S*)(?: |$)', line)
    return {key: value.strip('"') for key, value in found}


def test_logfmt_has_time_level_event_and_fields() -> None:
    stream = lines()
    log.logger().info("handed out", address="172.16.42.7", owner="a b", text='say "x"\nand = y', other=None, new=True)
    found = re.fullmatch(
        r'time=(\S+Z) level=info event="handed out" address=172\.16\.42\.7 owner="a b" '
        r'text="say \\"x\\"\\nand = y" other= new=true\n',
        stream.getvalue(),
    )
    assert found
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found[1])).total_seconds()) < 60


def test_a_terminal_gets_lines_for_a_person() -> None:
    stream = lines(Terminal())
    log.logger().info("handed out", address="172.16.42.7")
    assert "event=" not in stream.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert re.match(r"\d{4}-\S+Z \[info +\] handed out +address=172\.16\.42\.7\n", plain)


def test_libraries_write_the_same_way() -> None:
    stream = lines()
    logging.getLogger("aiohttp.server").error("Error handling %s", "request", extra={"peer": "x"})
    found = only(stream)
    assert (found["event"], found["level"], found["logger"]) == ("Error handling request", "error", "aiohttp.server")
    assert (found["peer"], "time" in found) == ("x", True)


def test_what_is_below_info_is_not_written() -> None:
    stream = lines()
    logging.getLogger("urllib3").debug("Starting new connection")
    log.logger().debug("a frame")
    assert not stream.getvalue()


def test_warnings_are_lines_too() -> None:
    logging.captureWarnings(capture=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = lines()
        warnings.warn("soon gone", stacklevel=1)
    assert "soon gone" in only(stream)["event"]


def test_an_exception_is_whole_and_in_one_line() -> None:
    stream = lines()
    try:
        os.environ["NOTHING_SUCH"]
    except KeyError:
        log.logger().exception("a bug", address="172.16.42.7")
        logging.getLogger("aiohttp.server").exception("a bug of theirs")
    assert len(stream.getvalue().splitlines()) == 2
    for line in stream.getvalue().splitlines():
        assert "Traceback (most recent call last)" in line
        assert "KeyError: 'NOTHING_SUCH'" in line
        assert "level=error" in line


def test_a_terminal_gets_the_traceback_without_local_variables() -> None:
    stream = lines(Terminal())
    local = "not for the log"
    try:
        os.environ[local[:3]]
    except KeyError:
        log.logger().exception("a bug")
    assert "KeyError" in stream.getvalue()
    assert local not in stream.getvalue()


def test_what_nobody_caught_is_a_line() -> None:
    stream = lines()
    error = ValueError("x")
    sys.excepthook(ValueError, error, None)
    found = only(stream)
    assert (found["event"], found["level"]) == ("uncaught exception", "critical")
    assert "ValueError: x" in found["exception"]


def test_what_nobody_caught_in_a_thread_is_a_line() -> None:
    stream = lines()
    thread = threading.Thread(target=lambda: 1 // 0, name="watch")
    thread.start()
    thread.join()
    found = only(stream)
    assert (found["event"], found["thread"]) == ("uncaught exception", "watch")
    assert "ZeroDivisionError" in found["exception"]


def test_a_second_call_replaces_the_first() -> None:
    first, second = lines(), lines()
    log.logger().info("once")
    assert not first.getvalue()
    assert len(second.getvalue().splitlines()) == 1


NOT_FIELDS = {"self", "event", "exc_info", "stack_info", "_record", "_from_structlog"}


@given(
    st.text(),
    st.dictionaries(
        st.text().filter(lambda key: key not in NOT_FIELDS),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.tuples(st.text())),
    ),
)
def test_no_field_costs_a_line_or_makes_two(event: str, fields: dict[str, Any]) -> None:
    stream = lines()
    log.logger().info(event, **fields)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
