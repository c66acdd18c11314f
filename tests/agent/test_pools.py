"""The pools that Docker has been given: how often, on which link, and what is left of them after a restart."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import InputError, LeaseError
from launcher.agent.pools import DockerPool, PoolStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUBNET, RANGE = IPv4Network("172.16.42.0/24"), IPv4Network("172.16.42.128/25")
POOL = DockerPool("br0", SUBNET, RANGE, {"order": "random"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pools.db"


@pytest.fixture
def store(path: Path) -> Iterator[PoolStore]:
    with closing(PoolStore(path)) as store:
        yield store


def again(path: Path) -> dict[str, DockerPool]:
    """What the next process finds."""
    with closing(PoolStore(path)) as store:
        return store.pools


def refusal(call: Callable[[], object], kind: type[Exception]) -> str:
    """What it says, in one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Ids.


@pytest.mark.parametrize(
    ("pool", "pool_id"),
    [(POOL, "br0:172.16.42.0/24:172.16.42.128/25"), (DockerPool("br0", SUBNET), "br0:172.16.42.0/24")],
)
def test_an_id_says_which_pool_it_is(pool: DockerPool, pool_id: str) -> None:
    assert pool.id == pool_id
    parsed = DockerPool.parse(pool_id)
    assert (parsed.interface, parsed.subnet, parsed.ranges) == (pool.interface, pool.subnet, pool.ranges)
    assert (parsed.options, parsed.count) == ({}, 0)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.@", min_size=1, max_size=15)
NETWORKS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda at: IPv4Network(at, strict=False))


@given(NAMES, NETWORKS, st.none() | NETWORKS)
def test_every_id_leads_back_to_its_pool(interface: str, subnet: IPv4Network, ranges: IPv4Network | None) -> None:
    pool = DockerPool(interface, subnet, ranges)
    assert DockerPool.parse(pool.id) == pool


def test_neither_options_nor_count_make_it_another_pool() -> None:
    assert DockerPool("br0", SUBNET, options={"order": "random"}, count=3).id == DockerPool("br0", SUBNET).id
    assert len({DockerPool("br0", SUBNET).id, DockerPool("br1", SUBNET).id, DockerPool("br0", SUBNET, RANGE).id}) == 3


@pytest.mark.parametrize(
    "pool_id",
    ["", "br0", "br0:", "br0:172.16.42.1/24", "br0:172.16.42.0/24:", "br0:172.16.42.0/24:x", "br0:fd00::/64", "0" * 64],
)
def test_what_is_no_id_of_ours_is_refused(pool_id: str) -> None:
    assert refusal(lambda: DockerPool.parse(pool_id), InputError).startswith(f"pool {pool_id!r} is not known here")


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    with suppress(InputError):
        DockerPool.parse(text)


# Requests and releases.


def test_a_pool_is_there_until_it_was_given_back_as_often_as_it_was_asked_for(store: PoolStore, path: Path) -> None:
    assert [store.request(POOL).count for _ in range(3)] == [1, 2, 3]
    assert store.release(POOL.id).count == 2
    assert again(path)[POOL.id].count == 2
    assert store.release(POOL.id).count == 1
    assert store.release(POOL.id).count == 0
    assert store.pools == again(path) == {}
    assert "released before" in refusal(lambda: store.release(POOL.id), InputError)


def test_a_pool_that_docker_does_not_have_is_what_its_id_says(store: PoolStore) -> None:
    assert store.get(POOL.id) == DockerPool("br0", SUBNET, RANGE)
    store.request(POOL)
    assert store.get(POOL.id) == store.pools[POOL.id]
    assert store.get(POOL.id).count == 1
    assert "not known here" in refusal(lambda: store.get("br0"), InputError)


def test_given_back_wholly_it_is_gone_at_once(store: PoolStore, path: Path) -> None:
    for _ in range(3):
        store.request(POOL)
    assert store.release(POOL.id, wholly=True).count == 0
    assert store.pools == again(path) == {}


def test_a_second_network_on_a_pool_changes_nothing_for_the_first(store: PoolStore, path: Path) -> None:
    store.request(POOL)
    other = DockerPool("br0", SUBNET, RANGE, {"order": "sticky"})
    assert store.request(other) == DockerPool("br0", SUBNET, RANGE, {"order": "random"}, 2)
    assert again(path) == store.pools


def test_an_engine_that_starts_brings_the_options_that_it_has_by_then(store: PoolStore, path: Path) -> None:
    store.request(POOL)
    store.recount()
    assert store.request(DockerPool("br0", SUBNET, RANGE, {"order": "sticky"})).options == {"order": "sticky"}
    assert again(path) == store.pools


def test_after_a_restart_everything_is_as_it_was(path: Path) -> None:
    with closing(PoolStore(path)) as store:
        store.request(POOL)
        store.request(DockerPool("br1", SUBNET))
        before = dict(store.pools)
    assert again(path) == before
    assert set(before) == {POOL.id, "br1:172.16.42.0/24"}


def test_an_engine_that_starts_counts_anew(store: PoolStore, path: Path) -> None:
    for _ in range(3):
        store.request(POOL)
    store.recount()
    assert store.pools == again(path) == {POOL.id: DockerPool("br0", SUBNET, RANGE, {"order": "random"}, 0)}
    assert store.request(POOL).count == 1
    assert store.release(POOL.id).count == 0
    assert store.pools == {}


def test_what_was_counted_anew_and_never_asked_for_can_be_given_back(store: PoolStore, path: Path) -> None:
    store.request(POOL)
    store.recount()
    assert store.release(POOL.id).count <= 0
    assert store.pools == again(path) == {}


@pytest.mark.parametrize("subnet", ["172.16.42.0/25", "172.16.0.0/16", "172.16.42.0/24"])
def test_what_overlaps_with_another_pool_of_the_same_link_is_refused(store: PoolStore, path: Path, subnet: str) -> None:
    store.request(POOL)
    before = dict(store.pools)
    said = refusal(lambda: store.request(DockerPool("br0", IPv4Network(subnet))), InputError)
    assert said.startswith(f"pool {subnet} overlaps with 172.16.42.0/24, which another Docker network has on br0")
    assert store.pools == again(path) == before


@pytest.mark.parametrize("pool", [DockerPool("br1", SUBNET), DockerPool("br0", IPv4Network("172.16.43.0/24"))])
def test_the_same_subnet_on_another_link_and_another_on_the_same_are_none_of_its_business(
    store: PoolStore, pool: DockerPool
) -> None:
    store.request(POOL)
    assert store.request(pool).count == 1
    assert len(store.pools) == 2


# What cannot be used.


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    said = refusal(lambda: PoolStore(tmp_path / "state" / "pools.db"), LeaseError)
    assert said.startswith(f"pools {tmp_path}/state/pools.db: ")
    assert "--state-dir" in said


@pytest.mark.parametrize(
    "content", [b"something else entirely\n" * 100, b"SQLite format 3\x00" + b"\xff" * 4080], ids=["text", "database"]
)
def test_a_damaged_file_is_said_to_be_damaged_and_may_be_moved_away(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "a damaged file may be moved away" in refusal(lambda: PoolStore(path), LeaseError)
    path.rename(path.with_suffix(".old"))
    assert again(path) == {}


@pytest.mark.parametrize("column", ["subnet", "ranges", "options"])
def test_a_damaged_row_is_said_to_be_damaged(path: Path, column: str) -> None:
    with closing(PoolStore(path)) as store:
        store.request(POOL)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE pool SET {column} = '{{'")  # noqa: S608 - a column's name
        db.commit()
    assert "a damaged file may be moved away" in refusal(lambda: PoolStore(path), LeaseError)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name("pools.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_could_not_be_written_has_not_happened(store: PoolStore, path: Path) -> None:
    store.request(POOL)
    before = dict(store.pools)
    with full_disk(path):
        said = [
            refusal(call, LeaseError)
            for call in (
                lambda: store.request(POOL),
                lambda: store.request(DockerPool("br1", SUBNET)),
                lambda: store.release(POOL.id),
                store.recount,
            )
        ]
    assert all("is the disk full or read-only?" in line for line in said)
    assert store.pools == again(path) == before
    assert store.request(POOL).count == 2
