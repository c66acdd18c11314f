"""Breaks that mutmut does not make by itself: a call left out, a condition or a comparison turned round."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libcst as cst
from mutmut.mutation.mutators import mutation_operators, operator_string

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OPPOSITES: dict[type[cst.BaseCompOp], Callable[[], cst.BaseCompOp]] = {
    cst.LessThan: cst.GreaterThanEqual,
    cst.LessThanEqual: cst.GreaterThan,
    cst.GreaterThan: cst.LessThanEqual,
    cst.GreaterThanEqual: cst.LessThan,
}


_SQL = re.compile(r"\b(DELETE|INSERT|ORDER|SELECT|UPDATE|VALUES|WHERE)\b")


def leave_out(node: cst.Expr) -> Iterator[cst.Pass]:
    """`survey.repeat(now)` -> `pass`."""
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def turn_condition(node: cst.If) -> Iterator[cst.If]:
    """`if done:` -> `if not (done):`; where the condition is one comparison, the operators on it do the same."""
    if not isinstance(node.test, (cst.Comparison, cst.UnaryOperation)):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(
            whitespace_before_test=cst.SimpleWhitespace(" "), test=cst.UnaryOperation(cst.Not(), test)
        )


def turn_comparison(node: cst.ComparisonTarget) -> Iterator[cst.ComparisonTarget]:
    """`now < end` -> `now >= end`."""
    if (opposite := _OPPOSITES.get(type(node.operator))) is not None:
        yield node.with_changes(operator=opposite())


def change_string(node: cst.SimpleString) -> Iterator[cst.BaseString]:
    """As mutmut does, but the case of SQL stays: it means nothing."""
    for changed in operator_string(node):
        if not (_SQL.search(node.value) and changed.value.upper() == node.value.upper()):
            yield changed


def install() -> None:
    """Add them to those of mutmut."""
    mutation_operators[:] = [entry for entry in mutation_operators if entry[1] is not operator_string]
    mutation_operators.extend(
        [
            (cst.SimpleString, change_string),
            (cst.Expr, leave_out),
            (cst.If, turn_condition),
            (cst.ComparisonTarget, turn_comparison),
        ]
    )
