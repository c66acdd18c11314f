"""Does what the plan says: what Docker is asked for on one thread a host, its faults on another, neighbours on more."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.lab.daemons import Dhcpcd, Networkd
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from launcher.lab.agents import NETWORK
from launcher.lab.soak.plan import FAULTS, HOSTS, MOVERS, NAMED
from launcher.lab.soak.world import LENGTH, Foreign, Trouble, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arpipam.lab import Host
    from arpipam.lab.daemons import Program
    from arpipam.lab.engine import LabEngine
    from launcher.lab.soak.plan import Step

ASKS = {"run", "run named", "run always", "start", "restart", "compose up"}
"""Acts for which Docker needs an address."""
LONGEST = 90.0
"""Seconds after which an act of Docker's hangs."""
JOIN = 15.0
"""Seconds in which a station finds out whether it can have an address."""
COMPOSE = """\
services:
  web: {{image: busybox, command: sleep 10000, networks: {{front: {{ipv4_address: {named}}}}}}}
  job: {{image: busybox, command: sleep 10000, networks: [front]}}
networks:
  front: {{external: true, name: {network}}}
"""
_GONE = re.compile(r"No such container|is not running|already in progress|no configuration file|can't find")
_NOISE = re.compile(r"--help|Encountered errors")
_VARYING = re.compile(
    r"[0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9a-f]{12,}|[0-9]+(\.[0-9]+){3}(/\d+)?|\bc\d+\b|\S*\.sock\S*|\d+(\.\d+)?"
)


@dataclass(frozen=True)
class Done:
    """What became of an act: when, which one, and what was said where it failed."""

    since: float
    until: float
    step: Step
    failed: str = ""

    @property
    def reason(self) -> str:
        """Why it failed, without what varies."""
        return _VARYING.sub("_", self.failed)[:160]


class Acts:
    """Performs steps; `finish` undoes what still lasts and waits for all."""

    def __init__(self, world: World, steps: Sequence[Step], told: Callable[[str], None]) -> None:
        self.done: list[Done] = []
        self.broken: list[BaseException] = []
        self._world = world
        self._steps = steps
        self._told = told
        self._rng = random.Random(1)
        self._plugging = threading.Lock()
        names = [f"{host} {kind}" for host in HOSTS for kind in ("docker", "faults")] + ["neighbours"]
        self._threads = {name: ThreadPoolExecutor(1, name) for name in names}
        self._threads["join"] = ThreadPoolExecutor(4, "join")
        self._jobs: list[Future[None]] = []

    def perform(self) -> None:
        """All steps in their time, as far as real time allows."""
        for step in self._steps:
            time.sleep(max(0.0, step.at - self._world.now()))
            self._jobs.append(self._threads[_lane(step)].submit(self._act, step))

    def finish(self) -> None:
        """Wait until all is done and undone."""
        for job in self._jobs:
            job.result()
        for thread in self._threads.values():
            thread.shutdown()

    def _act(self, step: Step) -> None:
        since = self._world.now()
        self._told(f"{since:7.2f} {step}")
        failed = ""
        try:
            getattr(self, f"_{step.what.split()[0]}")(step)
        except Failed as error:
            failed = str(error)
            self._told(f"{self._world.now():7.2f} {step}: {failed}")
        except Exception as error:  # noqa: BLE001 - the soak goes on, and tells it at its end
            self.broken.append(error)
            failed = f"{type(error).__name__}: {error}"
            self._told(f"{self._world.now():7.2f} {step}: {failed}")
        self.done.append(Done(since, self._world.now(), step, failed))

    # Containers.

    def _run(self, step: Step) -> None:
        self._container(step, "run", "-d", "--network", NETWORK, *_given(step))

    def _create(self, step: Step) -> None:
        self._container(step, "create", "--network", NETWORK, *_given(step))

    def _container(self, step: Step, *words: str) -> None:
        image = ("--stop-signal", "KILL", "--name", step.name, "busybox", "sleep", "10000")
        self._docker(step.where, *words, *image)

    def _start(self, step: Step) -> None:
        self._docker(step.where, "start", step.name)

    def _stop(self, step: Step) -> None:
        self._docker(step.where, "stop", "-t", "0", step.name)

    def _restart(self, step: Step) -> None:
        self._docker(step.where, "restart", "-t", "0", step.name)

    def _remove(self, step: Step) -> None:
        self._docker(step.where, "rm", "-f", step.name)

    def _compose(self, step: Step) -> None:
        host = self._world.host(step.where)
        folder = host.directory / "project"
        folder.mkdir(exist_ok=True)
        named = NAMED[HOSTS.index(step.where)]
        (folder / "compose.yaml").write_text(COMPOSE.format(named=named, network=NETWORK))
        words = ["up", "-d"] if step.what == "compose up" else ["down", "-t", "0"]
        self._command(host, "docker-compose", "--project-directory", str(folder), *words)

    def _docker(self, where: str, *words: str) -> None:
        host = self._world.host(where)
        assert host.engine is not None  # noqa: S101 - for mypy: each host of the soak has one
        self._command(host, host.engine.client, *words)

    def _command(self, host: Host, *words: str) -> None:
        try:
            done = host.command(*words, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise Failed(f"{words[1]} took longer than {LONGEST:g} s") from None
        if done.returncode and not _GONE.search(done.stderr):
            lines = [line for line in done.stderr.splitlines() if line.strip() and not _NOISE.search(line)]
            raise Failed(lines[-1] if lines else f"exit {done.returncode}")

    # Faults of a host.

    def _cut(self, step: Step) -> None:
        """Behind a dead switch: its link stays up."""
        host = self._world.host(step.where)
        with self._trouble(step):
            self._world.wire.cut(host)
            time.sleep(step.lasts)
            self._world.wire.heal(host)

    def _cable(self, step: Step) -> None:
        """Its NIC has no carrier."""
        with self._trouble(step):
            self._world.wire.unplug(self._world.host(step.where))
            time.sleep(step.lasts)
            self._world.wire.replug(self._world.host(step.where))

    def _port(self, step: Step) -> None:
        """A port with a lower MAC than all others comes to its bridge, and goes."""
        host = self._world.host(step.where)
        lowest = f"00:00:5e:00:53:{self._rng.randrange(256):02x}"
        with self._trouble(step):
            # Its other end is in a namespace without addresses, where nobody answers.
            end = f"netns {self._world.wire.namespace.name}"
            host.namespace.ip([f"link add passing address {lowest} type veth peer name at-{host.name} {end}"])
            self._world.wire.namespace.ip([f"link set at-{host.name} up"])
            host.namespace.ip([f"link set passing master {host.bridge} up"])
            time.sleep(step.lasts)
            host.namespace.ip(["link delete passing"])

    def _agent(self, step: Step) -> None:
        agent = self._world.agents[step.where]
        with self._trouble(step):
            if step.what == "agent stopped":
                self._pause(agent.process, step.lasts)
                return
            agent.kill(signal.SIGKILL if step.what == "agent killed" else signal.SIGTERM)
            time.sleep(step.lasts)
            agent.start()

    def _engine(self, step: Step) -> None:
        engine = self._engine_of(step.where)
        with self._trouble(step):
            if step.what == "engine stopped":
                self._pause(engine.process, step.lasts)
                return
            engine.end(signal.SIGKILL if step.what == "engine killed" else signal.SIGTERM)
            time.sleep(step.lasts)
            engine.start()

    def _disk(self, step: Step) -> None:
        """The disk with the agent's leases is full."""
        agent, engine = self._world.agents[step.where], self._engine_of(step.where)
        full = f"{agent.state_dir}/full"
        with self._trouble(step):
            subprocess.run(engine.inside("dd", "if=/dev/zero", f"of={full}", "bs=4k"), check=False, capture_output=True)
            time.sleep(step.lasts)
            subprocess.run(engine.inside("rm", "-f", full), check=True)

    @staticmethod
    def _pause(process: subprocess.Popen[bytes] | None, seconds: float) -> None:
        if process is not None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

    def _engine_of(self, where: str) -> LabEngine:
        engine = self._world.host(where).engine
        assert engine is not None  # noqa: S101 - for mypy: each host of the soak has one
        return engine

    def _trouble(self, step: Step) -> _Lasting:
        return _Lasting(self._world, self._world.trouble(step.what, step.where))

    # Neighbours.

    def _move(self, step: Step) -> None:
        """The address goes from one station to the other, which announces it, as after a failure of the first."""
        one, other = (self._world.foreign[name] for name in MOVERS)
        former, next_one = (one, other) if step.name in one.has else (other, one)
        with self._world.lock:
            former.has.discard(step.name)
        former.station.namespace.ip([f"addr del {step.name}/{LENGTH} dev eth0"])
        time.sleep(0.5)
        next_one.station.namespace.ip([f"addr add {step.name}/{LENGTH} dev eth0"])
        next_one.station.send([arp.announcement(arp.mac_bytes(next_one.station.mac), _number(step.name))] * 2)
        with self._world.lock:
            next_one.has.add(step.name)

    def _join(self, step: Step) -> None:
        """A station looks for others with that address, by its own program, and takes it if there are none."""
        world = self._world
        where = world.host(step.where) if step.where in HOSTS else world.wire
        with self._plugging:
            station = world.lab.station(step.name, where)
        kinds: list[type[Program]] = [kind for kind in (Dhcpcd, Networkd) if not kind.missing()]
        if not kinds:
            return
        program = world.lab.run(self._rng.choice(kinds), station, f"{step.address}/{LENGTH}")
        until = time.monotonic() + JOIN
        while time.monotonic() < until and not program.addresses:
            time.sleep(0.2)
        if step.address in program.addresses:
            with world.lock:
                world.foreign[step.name] = Foreign(station, {step.address}, program)
        else:
            program.stop()

    def _leave(self, step: Step) -> None:
        with self._world.lock:
            foreign = self._world.foreign.pop(step.name, None)
        if foreign is not None and foreign.program is not None:
            foreign.program.stop()

    def _flood(self, step: Step) -> None:
        with self._trouble(step):
            self._world.foreign["router"].station.flood(step.lasts, 2000).wait()

    def _forge(self, step: Step) -> None:
        """Frames that say what is not so, about addresses that containers have or may have."""
        with self._world.lock:  # the stations' own: theirs would be harmed by us
            theirs = {address for foreign in self._world.foreign.values() for address in foreign.has}
        targets = [_number(address) for address in self._world.addresses[3:24] if address not in theirs]
        with self._trouble(step):
            frames = [_forged(step.name, target, self._rng) for target in self._rng.sample(targets, 5)]
            self._world.foreign["router"].station.send(frames)


class Failed(Exception):  # noqa: N818 - it is what became of an act
    """Docker refused, in its words."""


class _Lasting(contextlib.AbstractContextManager["_Lasting"]):
    """A fault that is made: it has ended with the context."""

    def __init__(self, world: World, trouble: Trouble) -> None:
        self._world = world
        self._trouble = trouble

    def __exit__(self, *_: object) -> None:
        self._trouble.until = self._world.now()


def _given(step: Step) -> list[str]:
    """The words of `docker run` for this step."""
    words = ["--ip", step.address] if step.address else []
    return [*words, "--restart", "always"] if step.what == "run always" else words


def _lane(step: Step) -> str:
    """Which thread does it."""
    if step.what == "join":
        return "join"
    if step.where not in HOSTS:
        return "neighbours"
    return f"{step.where} {'faults' if step.what in FAULTS else 'docker'}"


def _forged(kind: str, target: int, rng: random.Random) -> bytes:
    mac = arp.random_mac(rng)
    if kind == "probes":
        return arp.probe(mac, target)
    if kind == "replies":
        asked = ArpPacket(arp.REQUEST, arp.BROADCAST, target, arp.NO_MAC, target, arp.BROADCAST, arp.BROADCAST)
        return arp.reply(mac, asked)
    return arp.announcement(mac, target, since=1 if kind == "dates" else 0)


def _number(address: str) -> int:
    return int(IPv4Address(address))
