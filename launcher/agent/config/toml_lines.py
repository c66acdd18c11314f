"""Where something stands in a TOML document, as far as tomllib does not tell."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line, counted from 1, on which the statement that gives the value at `path` starts.

    A path is keys and the places of entries in arrays, counted from 0. Where its end is not there, the line is that of
    the longest part of it that is; None where nothing of it is. `text` must be valid TOML.

    A document is a row of statements, so the first lines of it are a document themselves unless they end inside of one.
    So tomllib answers for every way to write a key: with dots, in quotes, in a table of any kind.
    """
    lines = text.split("\n")
    whole = tomllib.loads(text)
    known = list(path)
    while known and not _has(whole, known):
        known.pop()
    if not known:
        return None
    without, with_it = 0, len(lines)  # so many lines are a document without the value, and with it
    while True:
        middle = (without + with_it) // 2
        for count in (*range(middle, without, -1), *range(middle + 1, with_it)):
            if (document := _document(lines[:count])) is not None:
                break
        else:
            return without + 1
        if _has(document, known):
            with_it = count
        else:
            without = count


def unended(text: str) -> int:
    """The line, counted from 1, on which the statement starts that the end of an invalid document breaks off."""
    lines = text.split("\n")
    return next(count for count in range(len(lines) - 1, -1, -1) if _document(lines[:count]) is not None) + 1


def _document(lines: Sequence[str]) -> dict[str, Any] | None:
    """What the lines say; None where they end inside of a statement."""
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _has(document: Any, path: Sequence[str | int]) -> bool:
    for part in path:
        if isinstance(part, int):
            if not isinstance(document, list) or part >= len(document):
                return False
        elif not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True
