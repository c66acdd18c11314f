"""Rows of one table, as the reader wants them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


class Output:
    """Rows of one table, as the reader wants them: a person, a pipe, or a program."""

    def __init__(self, columns: Sequence[str], *, as_json: bool, table: bool = True) -> None:
        self._columns = columns
        self._json = as_json
        self._rows: list[list[str]] = []
        self._table = table and not as_json and sys.stdout.isatty()

    def row(self, **values: Any) -> None:
        """Write one row, or keep it for the table."""
        if self._json:
            click.echo(json.dumps(values, default=str))
            return
        texts = [_text(values[column]) for column in self._columns]
        if self._table:
            self._rows.append(texts)
        else:
            click.echo("\t".join(text or "-" for text in texts))

    def end(self) -> None:
        """Write the table, where there is one."""
        if not self._table:
            return
        from rich.console import Console  # noqa: PLC0415 - a pipe needs none of it
        from rich.table import Table  # noqa: PLC0415

        table = Table(*(column.replace("_", " ") for column in self._columns), box=None, pad_edge=False)
        for texts in self._rows:
            table.add_row(*texts)
        Console(emoji=False, markup=False).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
