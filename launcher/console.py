"""The one line on stderr in which each program speaks to its user."""

from __future__ import annotations

import click


def tell(program: str, text: str) -> None:
    """Write `program: text` on stderr, as one line."""
    click.echo(f"{program}: {' '.join(text.split())}", err=True)


def complain(program: str, text: str, status: int) -> int:
    """Write why the program ends, and return its exit status."""
    tell(program, text)
    return status
