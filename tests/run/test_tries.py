"""How often arpipam-run tries another address when the engine keeps giving away the one that was found."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, ip_network
from typing import TYPE_CHECKING, Any, Self

import pytest

from arpipam.errors import AddressInUseError, PoolExhaustedError
from launcher.engine.target import Target
from launcher.options import Options
from launcher.run.launch import MOST_TRIES, Launch, RunRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.engine.engine import Engine


class Claim:
    """The next address, which is released as soon as the engine is known to have given it away."""

    def __init__(self, address: IPv4Address) -> None:
        self.address = address
        self.released: list[float] = []

    def release(self, quarantine: float) -> None:
        self.released.append(quarantine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.released == [0.0]


class Robbed(Launch):
    """At an engine that gives each address away while it is being claimed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.claims: list[Claim] = []
        self.excluded: list[set[str]] = []

    def _own_address(self) -> IPv4Interface:
        return IPv4Interface("172.16.42.1/24")

    def _look(self) -> None:
        self._engine: Engine
        self._network = None

    def _claimer(self, options: Options, *_: Any) -> Any:
        self.excluded.append(set(options.exclude))

        def claim() -> Claim:
            address = self._request.address or ip_network("172.16.42.0/24")[len(self.claims) + 10]
            self.claims.append(Claim(address))  # type: ignore[arg-type] # IPv4
            self._given[self.claims[-1].address] = "thief"
            return self.claims[-1]

        return claim


@pytest.fixture(autouse=True)
def engine(tmp_path: Path) -> Iterator[None]:
    """Something that listens where an engine would."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        yield


def launch(tmp_path: Path, **wanted: Any) -> Robbed:
    wanted["engine"] = Target(f"unix://{tmp_path}/docker.sock")
    return Robbed(Options(interface="br0", socket=tmp_path / "no agent"), RunRequest(("busybox",), **wanted))


def test_after_eight_addresses_it_asks_for_help(tmp_path: Path) -> None:
    robbed = launch(tmp_path)
    with pytest.raises(PoolExhaustedError, match=r"br0: the engine gave 8 addresses away .* docker network create"):
        robbed.run()
    assert len(robbed.claims) == MOST_TRIES == 8
    assert robbed.excluded[-1] == {str(claim.address) for claim in robbed.claims[:-1]}  # none is tried twice


def test_a_given_address_is_tried_once(tmp_path: Path) -> None:
    robbed = launch(tmp_path, address=IPv4Address("172.16.42.7"))
    with pytest.raises(
        AddressInUseError, match=r"the engine has given 172\.16\.42\.7 to thief meanwhile; take another"
    ):
        robbed.run()
    assert len(robbed.claims) == 1
