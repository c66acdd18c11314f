"""Who holds a lease, as the kernel has it; and what is said where it cannot be asked."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from arpipam.errors import LeaseError
from arpipam.leases.liveness import Liveness


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holders"


@pytest.fixture
def ours(path: Path) -> Liveness:
    return Liveness(path)


@pytest.fixture
def theirs(path: Path) -> Liveness:
    """Another process's: a lock is the open file's, so that two of them in one process are as strange to each other."""
    return Liveness(path)


def test_what_one_holds_no_other_can_until_it_lets_go(ours: Liveness, theirs: Liveness) -> None:
    assert not theirs.held(7)
    ours.hold(7)
    assert theirs.held(7)
    assert ours.held(7)
    with pytest.raises(LeaseError, match="cannot lock lease 7"):
        theirs.hold(7)
    assert (ours.ours(), theirs.ours()) == ({7}, set())
    ours.let_go(7)
    assert not theirs.held(7)
    theirs.hold(7)
    assert ours.held(7)
    theirs.let_go(7)


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**62])
def test_each_number_is_held_by_itself(ours: Liveness, theirs: Liveness, number: int) -> None:
    ours.hold(number)
    assert not theirs.held(number + 1)
    assert number == 0 or not theirs.held(number - 1)
    theirs.hold(number + 1)
    assert ours.held(number + 1)
    ours.let_go(number)
    theirs.let_go(number + 1)


def test_what_is_not_held_can_be_let_go(ours: Liveness, theirs: Liveness) -> None:
    theirs.hold(7)
    ours.let_go(7)
    assert ours.held(7)
    theirs.let_go(7)
    theirs.let_go(7)
    assert not ours.held(7)


def test_asking_does_not_take(ours: Liveness, theirs: Liveness) -> None:
    for _ in range(3):
        assert not ours.held(7)
        assert not theirs.held(7)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_failure_to_hold_leaves_no_file_open(ours: Liveness, theirs: Liveness) -> None:
    ours.hold(7)
    before = open_files()
    for _ in range(5):
        with pytest.raises(LeaseError):
            theirs.hold(7)
        theirs.held(7)
    assert open_files() == before
    ours.let_go(7)
    assert open_files() == before - 1


def test_the_file_of_what_is_held_keeps_it_for_a_child(ours: Liveness, theirs: Liveness) -> None:
    ours.hold(7)
    ours.hold(8)
    fd = ours.fd(7)
    assert not os.get_inheritable(fd)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd]):
        ours.let_go(7)
        ours.let_go(8)
        assert (theirs.held(7), theirs.held(8)) == (True, False)
    assert not theirs.held(7)
    with pytest.raises(LeaseError, match="this process does not hold lease 7"):
        ours.fd(7)


def test_the_file_is_the_owners_and_holds_nothing(ours: Liveness, path: Path) -> None:
    ours.hold(2**40)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 0
    ours.let_go(2**40)


def test_where_the_file_is_gone_nothing_is_held_and_it_is_said(ours: Liveness, path: Path) -> None:
    path.unlink()
    for ask in (ours.hold, ours.held):
        with pytest.raises(LeaseError, match="No such file or directory; was the folder removed") as caught:
            ask(7)
        assert "\n" not in str(caught.value)
    assert ours.ours() == set()


def test_where_too_many_files_are_open_nothing_is_held_and_it_is_said(ours: Liveness) -> None:
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(LeaseError, match="ulimit -n"):
            ours.hold(7)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert ours.ours() == set()
    assert not ours.held(7)
