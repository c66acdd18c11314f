"""What is asked of the kernel for a fabric."""

from __future__ import annotations

from arpipam.fabric import kernel


def test_a_dump_that_changed_on_the_way_is_asked_again() -> None:
    changed = {"header": {"flags": kernel._NLM_F_DUMP_INTR}}
    whole = {"header": {"flags": 0}}
    answers = iter([[changed], [whole, changed], [whole, whole]])
    assert kernel.dump(lambda: next(answers)) == [whole, whole]
