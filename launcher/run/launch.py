"""One launch, from the command line to the container's end.

The engine is looked at and an address claimed, side by side; `docker run` starts in our place with that address; the
container is followed until it answers for itself; and the lease ends up as the container does.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from arpipam.claim import Claim
from arpipam.claim_state import ClaimState
from arpipam.errors import (
    AddressInUseError,
    ArpipamError,
    InputError,
    LinkError,
    PoolExhaustedError,
    UnknownError,
)
from arpipam.leases.lease import QUARANTINE
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.link.netlink import facts
from arpipam.protocol.outcome import Verdict
from launcher.agent.client.client import AgentClient
from launcher.agent.client.connection import running
from launcher.agent.contract import ClaimRequest
from launcher.console import complain, tell
from launcher.engine.errors import EngineError
from launcher.engine.target import USUAL, Target
from launcher.options import Options, make_allocator
from launcher.run.child import StandardInput
from launcher.run.docker_command import DockerCommand, refuse_ours
from launcher.run.handover import HELD, HandOver
from launcher.signals import signals_held

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network

    from arpipam.allocator import Allocator
    from launcher.agent.client.remote_claim import RemoteClaim
    from launcher.engine.engine import Engine
    from launcher.engine.model import DockerNetwork

PROGRAM = "arpipam-run"
MOST_TRIES = 8  # addresses that the engine may turn out to have given away itself, before we ask for help
ANSWER_WAIT = 5.0  # s that we stay after `docker run -d` until the container answers for itself
DOCKER_FAILED = 125  # docker's own status for "the container could not be started"


@dataclass(frozen=True)
class RunRequest:
    """What the user asks for beside the shared options; `words` are docker's."""

    words: tuple[str, ...]
    address: IPv4Address | None = None
    prefix: int | None = None
    gateway: IPv4Address | None = None
    network: str | None = None
    engine: Target = USUAL

    @property
    def owner(self) -> str:
        """Whose the address is: the container's name, else a digest of the command line (which may hold secrets)."""
        for word, following in zip(self.words, (*self.words[1:], ""), strict=True):
            if word == "--name" and following:
                return _utf8(following)
            if word.startswith("--name="):
                return _utf8(word.removeprefix("--name="))
        return "run-" + hashlib.sha256(os.fsencode("\0".join(self.words))).hexdigest()[:12]


class Launch:
    """One `arpipam-run`. `run` returns its exit status, or raises ArpipamError when docker was not even started."""

    def __init__(self, options: Options, request: RunRequest) -> None:
        self._options = options
        self._agent = AgentClient(options.socket) if running(options.socket) else None
        self._request = request
        self._docker = DockerCommand(request.engine)
        self._engine: Engine
        self._allocator: Allocator | None = None
        """What claims where no agent runs."""
        self._network: DockerNetwork | None = None
        self._given: dict[IPv4Address, str] = {}
        """Addresses that the engine has given away or promised, and to which container."""

    def run(self) -> int:
        """Launch, with another address when the engine turns out to have given the first one away itself."""
        refuse_ours(self._request.words)
        self._docker.knock()
        own = self._own_address()
        looked = own is None or self._asks_for_much
        if looked:
            self._look()
        for _ in range(MOST_TRIES):
            status = self._attempt(own, look=not looked)
            if status is not None:
                return status
            looked = False
        raise PoolExhaustedError(
            f"{self._options.interface}: the engine gave {MOST_TRIES} addresses away while they were being claimed; "
            "keep its own containers out of this range: docker network create --ip-range"
        )

    @property
    def _asks_for_much(self) -> bool:
        """Whether the claim depends on what the engine knows. Else both are asked at the same time, to save time."""
        request = self._request
        given = request.address is not None or request.gateway is not None or request.network is not None
        return given or self._options.order == "sticky"  # whose last lease may turn out to be over

    def _own_address(self) -> IPv4Interface | None:
        """The interface's own address in the network that is meant."""
        prefixes = facts(self._options.interface).prefixes
        wanted, declared = self._request.address or self._request.gateway, self._options.declared
        if declared is not None:
            prefixes = tuple(sorted(prefixes, key=lambda prefix: prefix.network != declared.subnet))
        fitting = (prefix for prefix in prefixes if wanted is None or wanted in prefix.network)
        return next(fitting, prefixes[0] if prefixes else None)

    def _look(self) -> None:
        """See what the engine has: its network on the link, its containers; and what became of older leases."""
        from launcher.engine.engine import Engine  # noqa: PLC0415 - docker-py takes 0.1 s, saved while we listen
        from launcher.engine.reconcile import reconcile  # noqa: PLC0415

        self._engine = Engine(self._request.engine)
        if self._agent is None:  # which does that itself
            with SqliteLeaseStore(self._options.state_dir / "leases.db") as leases:
                reconcile(leases, self._engine)
        self._network = self._engine.network(self._options.interface, self._request.network)
        self._given = {address: c.name for c in self._engine.containers() for address in c.addresses}
        if self._network is not None:
            self._given |= dict.fromkeys(self._network.kept, f"the network {self._network.name} itself")
        self._docker.learn(self._engine)

    def _attempt(self, own: IPv4Interface | None, *, look: bool) -> int | None:
        """Claim an address and run the container with it; None when the engine has that address in use itself."""
        request = self._request
        subnet = self._subnet(own)
        if request.address in self._given:
            raise AddressInUseError(
                f"{request.address} belongs to {self._given[request.address]}, says the engine; take another"
            )
        exclude = [str(address) for address in self._given if address in subnet]
        options = replace(self._options, exclude=(*self._options.exclude, *exclude))
        with ExitStack() as stack:
            with signals_held():  # the threads that start here leave every signal to this one
                looking = stack.enter_context(ThreadPoolExecutor(1)).submit(self._look if look else _nothing)
                claimer = self._claimer(options, subnet, stack)
            claim = claimer()
            stack.push(claim)
            looking.result()
            if self._network is not None and self._network.subnet != subnet:
                return None  # now that it is known, the next attempt is right
            if claim.address in self._given:
                self._give_up(claim, self._given[claim.address])
                return None
            network = self._network = self._network or self._make_network(own)
            if not self._is_held(claim):
                return None
            self._report(claim, claim.state)
            claim.on_change(lambda state: self._report(claim, state))
            with signals_held():
                return self._run_docker(claim, network)

    def _claimer(self, options: Options, subnet: IPv4Network, stack: ExitStack) -> Callable[[], Claim | RemoteClaim]:
        """What claims an address: the agent where one runs, else this process, with a link that `stack` closes."""
        request = self._request
        if self._agent is not None:
            exclude = options.exclude if request.gateway is None else (*options.exclude, str(request.gateway))
            usual = Options()
            asked = ClaimRequest(
                options.interface,
                request.owner,
                subnet=str(subnet),
                address=None if request.address is None else str(request.address),
                mac=options.mac,
                exclude=exclude,
                ranges=options.ranges,
                witnesses=tuple(map(str, options.witnesses)),
                order=None if options.order == usual.order else options.order,
                timing=None if options.timing == usual.timing else options.timing,
                alone=options.alone,
                miss_probability=(
                    None if options.miss_probability == usual.miss_probability else options.miss_probability
                ),
            )
            return partial(self._agent.claim, asked)
        self._allocator = make_allocator(options, subnet=subnet, gateway=request.gateway, progress=_tell)
        stack.enter_context(self._allocator)
        return partial(self._allocator.claim, request.owner, request.address, options.mac)

    def _is_held(self, claim: Claim | RemoteClaim) -> bool:
        """Whether the address is still ours alone: while the engine was asked, the link may have been out for a moment.

        Raises AddressInUseError where it is the one that was asked for, UnknownError or LinkError where the link cannot
        be trusted.
        """
        if claim.state is ClaimState.LINK_LOST:
            raise LinkError(str(claim.failure))
        holder = str(claim.conflict) if claim.state is ClaimState.CONFLICT else None
        if holder is None and self._allocator is not None and isinstance(claim, Claim) and claim.needs_check:
            probed = self._allocator.check(claim)
            if probed.verdict is Verdict.UNKNOWN:
                raise UnknownError(probed.reason)
            holder = None if probed.verdict is Verdict.FREE else f"the station {probed.mac}"
        if holder is not None:
            claim.release()
            self._go_on(f"{holder} has taken {claim.address} meanwhile")
        return holder is None

    def _subnet(self, own: IPv4Interface | None) -> IPv4Network:
        """The subnet of the container, in which what the user asked for must lie."""
        request, network, interface = self._request, self._network, self._options.interface
        if network is not None:
            subnet = network.subnet
        elif own is not None:
            subnet = own.network
        else:
            raise InputError(f"{interface} has no IPv4 address, and no Docker network is on it: give it one of them")
        if request.prefix not in (None, subnet.prefixlen):
            raise InputError(f"--ip {request.address}/{request.prefix}: the network on {interface} is {subnet}")
        if request.gateway is not None:
            if request.gateway not in subnet:
                raise InputError(f"--gateway {request.gateway} is outside of {subnet}, the network on {interface}")
            gateway = None if network is None else network.gateway or (own.ip if own is not None else None)
            if network is not None and gateway != request.gateway:
                raise InputError(
                    f"--gateway {request.gateway}: the Docker network {network.name} has the gateway {gateway}; name "
                    "another network, or remove this one, and it is made anew"
                )
        return subnet

    def _make_network(self, own: IPv4Interface | None) -> DockerNetwork:
        """Make the Docker network on the bridge, which must come out of it as it was."""
        interface = self._options.interface
        before = facts(interface)
        if not before.is_bridge or own is None:
            raise InputError(
                f"{interface} is not a bridge, and no Docker network is on it; make one first: docker network create "
                f"-d macvlan -o parent={interface} --subnet {own.network if own is not None else '…'} --gateway … lan"
            )
        name = self._request.network or f"arpipam-{interface}"
        network = self._engine.create_network(name, interface, own, self._request.gateway, before.mtu)
        after = facts(interface)
        if after.prefixes != before.prefixes:
            self._engine.remove_network(name)
            raise EngineError(
                f"with the network {name} the engine changed the addresses of {interface} from "
                f"{_list(before.prefixes)} to {_list(after.prefixes)}; the network is removed again"
            )
        return network

    def _run_docker(self, claim: Claim | RemoteClaim, network: DockerNetwork) -> int | None:
        """Run docker to its end; None when the engine had the address in use."""
        arguments = [
            "--network",
            network.name,
            "--ip",
            str(claim.address),
            "--label",
            self._engine.label(claim.lease.id),
        ]
        standard_input = StandardInput()
        hand_over = HandOver(self._engine, claim, audible=network.driver == "bridge")
        hand_over.start()
        try:
            status = self._docker.run(arguments, claim.mac, self._request.words, keep_open=[claim.holder_fd])
            return self._settle(claim, status, hand_over, standard_input)
        except AddressInUseError:  # the engine's own doing: nothing is kept
            raise
        except ArpipamError as error:
            if hand_over.container is None:
                raise
            complain(PROGRAM, f"{error}; the lease of {claim.address} is kept", error.exit_status)
            return status
        finally:
            hand_over.stop()
            if hand_over.error is not None:
                complain(PROGRAM, str(hand_over.error), hand_over.error.exit_status)

    def _settle(
        self, claim: Claim | RemoteClaim, status: int, hand_over: HandOver, standard_input: StandardInput
    ) -> int | None:
        """Leave the lease as the container was left: it lasts as long as the container exists."""
        containers = self._engine.containers()
        mine = next((c for c in containers if self._engine.holds(c, claim.lease)), None)
        if status == DOCKER_FAILED and not (mine and mine.running):
            other = next((c for c in containers if c.running and claim.address in c.addresses), None)
            if other is not None and standard_input.rewind(untouched=hand_over.reads_input is False):
                if mine is not None:
                    self._engine.remove(mine.id)
                self._give_up(claim, other.name)
                self._given[claim.address] = other.name
                return None
        if mine is None:
            # Where there never was a container, nobody has used the address: it need not rest. One that lived for a
            # moment only may have gone unseen, but docker's own status tells.
            unused = hand_over.container is None and status == DOCKER_FAILED
            claim.release(quarantine=0.0 if unused else QUARANTINE)
            return status
        claim.bind(self._engine.reference(mine.id))
        if mine.running and claim.state in HELD:
            hand_over.done.wait(ANSWER_WAIT)
        claim.hand_over()
        return status

    def _give_up(self, claim: Claim | RemoteClaim, holder: str) -> None:
        """The engine has the address in use; nobody else may have it, but it is not ours to wait for either."""
        claim.release(quarantine=0.0)
        self._go_on(f"the engine has given {claim.address} to {holder} meanwhile")

    def _go_on(self, text: str) -> None:
        """Another address will do, unless it is the one that was asked for."""
        if self._request.address is not None:
            raise AddressInUseError(f"{text}; take another")
        _tell(f"{text}; going on to the next")

    def _report(self, claim: Claim | RemoteClaim, state: ClaimState) -> None:
        """Say where the claim stands: every change as JSON, else only what is wrong."""
        if self._options.json:
            found = round(claim.found.elapsed * 1000, 3)
            line = {"address": str(claim.address), "prefix": claim.prefix, "mac": claim.mac, "state": state}
            click.echo(json.dumps(line | {"elapsed_ms": found}), err=True)
        elif state is ClaimState.CONFLICT:
            _tell(f"{claim.conflict} uses {claim.address} too and does not give it up; we no longer defend it")
        elif state is ClaimState.LINK_LOST:
            _tell(str(claim.failure))


def _utf8(word: str) -> str:
    """A word of the command line as text that can be stored, whatever bytes it was made of."""
    return os.fsencode(word).decode(errors="backslashreplace")


def _nothing() -> None:
    """Stand in for a look that was taken before."""


def _list(prefixes: tuple[IPv4Interface, ...]) -> str:
    return ", ".join(map(str, prefixes)) or "none"


def _tell(text: str) -> None:
    """One line on stderr."""
    tell(PROGRAM, text)
