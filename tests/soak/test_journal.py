"""What the referee notes, and what follows from it."""

from __future__ import annotations

from launcher.lab.soak.journal import Journal

A, ONE, TWO = "172.16.42.9", "02:00:00:00:00:01", "02:00:00:00:00:02"


def journal(*rounds: tuple[str, str], every: float = 0.25) -> Journal:
    """Rounds from 1 s on; of each the answers at the first and at the second post, MACs separated by blanks."""
    made = Journal(("host1", "host2"))
    for number, answers in enumerate(rounds):
        made.note(1 + number * every, {A: tuple(frozenset(macs.split()) for macs in answers)})
    return made


def test_rounds_of_the_same_answers_are_one_spell() -> None:
    made = journal(("", ""), (ONE, ""), (ONE, ONE), (ONE, ONE), ("", ""))
    assert [(spell.since, spell.until) for spell in made.spells[A]] == [(1, 1), (1.25, 1.25), (1.5, 1.75), (2, 2)]


def test_two_owners_at_one_post_are_a_duplicate() -> None:
    [found] = journal((ONE, ONE), (ONE, f"{ONE} {TWO}"), (ONE, f"{ONE} {TWO}"), (ONE, ONE)).duplicates()
    assert (found.address, found.since, found.until) == (A, 1.25, 1.75)
    assert found.macs == {ONE, TWO}


def test_an_owner_at_each_post_is_a_duplicate_across_a_cut() -> None:
    [found] = journal((ONE, ONE), (ONE, TWO), (ONE, TWO)).duplicates()
    assert (found.since, found.until) == (1.25, 1.5)


def test_an_owner_that_changes_between_two_posts_is_none() -> None:
    assert list(journal((ONE, ONE), (TWO, ONE), (TWO, TWO)).duplicates()) == []


def test_a_late_last_answer_of_a_former_owner_is_none() -> None:
    rounds = [(ONE, ONE), ("", ""), (f"{ONE} {TWO}", TWO), (TWO, TWO)]
    assert list(journal(*rounds).duplicates()) == []
    assert len(list(journal(*rounds, (ONE, ONE), (f"{ONE} {TWO}", ONE), (ONE, ONE)).duplicates())) == 1


def test_an_owner_after_another_is_none() -> None:
    assert list(journal((ONE, ONE), (ONE, ONE), ("", ""), (TWO, TWO)).duplicates()) == []


def test_a_duplicate_that_pauses_for_a_moment_is_one() -> None:
    rounds = [(f"{ONE} {TWO}", ""), (ONE, ""), (f"{ONE} {TWO}", ""), (ONE, "")]
    assert [(found.since, found.until) for found in journal(*rounds).duplicates()] == [(1, 1.75)]


def test_a_silence_is_that_of_one_owner_at_one_post() -> None:
    made = journal((ONE, ""), ("", ONE), (TWO, ONE), (ONE, ONE), (ONE, ""))
    assert list(made.silences(A, ONE, "host1", 0, 9)) == [(1.25, 1.75)]
    assert list(made.silences(A, ONE, "host1", 1.5, 9)) == [(1.5, 1.75)]
    assert list(made.silences(A, ONE, "host2", 0, 9)) == [(1, 1.25)]


def test_a_silence_lasts_to_the_end_of_what_is_asked_about() -> None:
    made = journal((ONE, ""), ("", ""), ("", ""), ("", ""))
    assert list(made.silences(A, ONE, "host1", 0, 1.5)) == [(1.25, 1.5)]


def test_no_silence_is_told_of_a_time_in_which_the_referee_was_away() -> None:
    made = journal((ONE, ""), ("", ""), (ONE, ""), every=2)
    assert made.away == [(1, 3), (3, 5)]
    assert list(made.silences(A, ONE, "host1", 0, 9)) == []


def test_who_answered_between_two_times() -> None:
    made = journal((ONE, ""), ("", ""), ("", TWO))
    assert made.owners(A, 1.1, 1.3) == frozenset()
    assert made.owners(A, 0, 9) == {ONE, TWO}
    assert made.owners("172.16.42.10", 0, 9) == frozenset()
