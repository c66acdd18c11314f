"""How often an address that is used is called free."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NamedTuple

from arpipam import Allocator, Verdict
from arpipam.lab import Lab
from arpipam.protocol.timing import MISS_PROBABILITY
from bench import forked, peers, stats
from bench.harness import Case, Plot, Scenario, Stopwatch
from bench.network import answer_for
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from arpipam.lab import Host, Namespace, Wire
    from bench.harness import Taken, Values
    from bench.results import Outcome

USED = [str(IPv4Address("10.50.1.0") + n) for n in range(1, 201)]
FREE = [str(IPv4Address("10.50.2.0") + n) for n in range(1, 9)]
SLOW = [str(IPv4Address("10.50.3.0") + n) for n in range(1, 201)]
LINK_LOCAL = [f"169.254.7.{n}" for n in range(1, 65)]
WITNESS = "10.50.0.2"
CLIENTS = 16
"""Namespaces for programs of which one runs on one interface."""
AT_ONCE = 50
"""Processes of arping."""
ADAPTIVE, LAN, RFC = "arpipam", "arpipam, lan", "arpipam, rfc5227"
ARPING, ARPING_3 = "arping -D -c 1 -w 1", "arping -D -c 3"
ARP_SCAN, SRP, DHCPCD, AVAHI = "arp-scan", "scapy srp", "dhcpcd", "avahi-autoipd"
LOSS, DELAY, STATION = "loss", "slow link", "slow station"
TIMINGS = {ADAPTIVE: "adaptive", LAN: "lan", RFC: "rfc5227"}


class World(NamedTuple):
    """One host that asks, one witness, a crowd that answers at once and one that takes its time."""

    lab: Lab
    wire: Wire
    host: Host
    clients: list[Namespace]


class FalseFree(Scenario[World]):
    """The crowd uses every address that is asked for."""

    name = "false-free"
    title = "used addresses that are called free"
    about = f"""
        Every address that is asked for is used. `{LOSS}`: so many frames are lost on the way to each receiver, so a
        question and its answer are both at risk; 100 % is a link that carries nothing. `{DELAY}`: the asker's own link
        takes so long, there and back. `{STATION}`: the link is quick, and so is the witness, but the station that uses
        the address takes so long to answer, which no witness can tell. `stated` is arpipam's own bound on the chance
        that a free address that it found on that link is used all the same. A verdict of `unknown` hands out nothing.
        dhcpcd and avahi-autoipd are read as they log; each has an interface of its own.
        """
    metrics = (
        Metric(name="called free", share=True),
        Metric(name="called unknown", share=True),
        Metric(name="seconds to free", better="less"),
        Metric(name="stated", unit="", better="neither"),
    )
    plots = (
        Plot(
            "loss",
            "called free",
            "value",
            "Used addresses that are called free, by loss",
            only={"what": LOSS},
            log_y=True,
            bound="stated",
            x_label="frames lost on the way to each receiver",
        ),
        Plot(
            "slow-link",
            "called free",
            "value",
            "Used addresses that are called free, on slow links",
            only={"what": DELAY},
            log_y=True,
            x_label="round trip",
        ),
        Plot(
            "slow-station",
            "called free",
            "value",
            "Used addresses that are called free, by slow stations",
            only={"what": STATION},
            log_y=True,
            x_label="time that the station takes to answer",
        ),
    )

    def __init__(self, *, quick: bool) -> None:
        super().__init__(quick=quick)
        self.notes += [peers.LEFT_OUT, *peers.missing("arp-scan", "dhcpcd", "avahi-autoipd")]

    def cases(self) -> Iterable[Case]:
        """Loss, slow links, slow stations; programs that are slow themselves take part in fewer."""
        rare = {DHCPCD: 0, AVAHI: 0}
        if self.quick:
            few = rare | {RFC: 0, ARPING: 1, ARPING_3: 0, ARP_SCAN: 1, SRP: 0}
            yield Case({"what": LOSS, "value": "30 %"}, 3, few)
            yield Case({"what": LOSS, "value": "100 %"}, 1, few | {ARPING: 0})
            yield Case({"what": STATION, "value": "200 ms"}, 1, few)
            return
        turns = 6
        fewer = {LAN: 3, RFC: 1, ARPING: 2, ARPING_3: 1, ARP_SCAN: 2, SRP: 2}
        once = {DHCPCD: 1, AVAHI: 1}
        for percent in (0, 10, 20, 30, 40):
            more = once if percent in {0, 30} else rare
            yield Case({"what": LOSS, "value": f"{percent} %"}, turns, fewer | more)
        yield Case({"what": LOSS, "value": "100 %"}, 1, fewer | rare | {ARPING_3: 0, SRP: 1})
        for milliseconds in (50, 200, 500):
            yield Case({"what": DELAY, "value": f"{milliseconds} ms"}, 3, fewer | rare | {ARPING: 1, ARPING_3: 0})
        for milliseconds in (50, 100, 200, 500):
            more = once if milliseconds == 500 else rare  # noqa: PLR2004 - the slowest
            yield Case({"what": STATION, "value": f"{milliseconds} ms"}, 2, fewer | more | {ARPING: 1})

    @contextmanager
    def world(self) -> Iterator[World]:
        """All on one wire."""
        with Lab() as lab:
            wire = lab.wire()
            host = lab.host("host1", wire, "10.50.0.1/16")
            lab.start()
            lab.station("gateway", wire, f"{WITNESS}/16")
            crowd = lab.station("crowd", wire)
            for addresses in (USED, LINK_LOCAL):
                answer_for(crowd.namespace, IPv4Address(addresses[0]), IPv4Address(addresses[-1]))
            clients = []
            for number in range(CLIENTS):
                clients.append(lab.namespace(f"client{number}"))
                wire.plug(clients[-1], "eth0")
            yield World(lab, wire, host, clients)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:
        """Everybody who can say whether one address is free."""
        what, amount = str(case.vary["what"]), float(str(case.vary["value"]).split()[0])
        namespace, interface = world.host.namespace, world.host.bridge
        used = SLOW if what == STATION else USED
        with ExitStack() as stack:
            if what == LOSS:
                world.wire.loss = amount
                stack.callback(setattr, world.wire, "loss", 0.0)
            elif what == DELAY:
                world.wire.delay(world.host, amount / 2000)
                stack.callback(world.wire.delay, world.host, 0.0)
            else:
                addresses = [f"{address}/16" for address in SLOW]
                station = world.lab.station(f"slow{amount:.0f}", world.wire, *addresses, slow=amount / 1000)
                stack.callback(station.close)

            def each(ask: Callable[[str], peers.Said]) -> Callable[[int], list[Values]]:
                def take(_: int) -> list[Values]:
                    with ThreadPoolExecutor(AT_ONCE) as pool:
                        return [{"called free": float(said.free)} for said in pool.map(ask, used)]

                return take

            def sweeps(sweep: Callable[..., set[str]], *words: Any) -> Callable[[int], list[Values]]:
                def take(_: int) -> list[Values]:
                    found = forked.call(namespace, sweep, interface, *words).result
                    return [{"called free": float(address not in found)} for address in used]

                return take

            block = "10.50.3.0/24" if what == STATION else "10.50.1.0/24"
            subjects: dict[str, Callable[[int], Taken]] = {
                name: self._ours(world, timing, used) for name, timing in TIMINGS.items()
            }
            subjects[ARPING] = each(lambda address: peers.arping(namespace, interface, address, 1, 1))
            subjects[ARPING_3] = each(lambda address: peers.arping(namespace, interface, address, 3))
            subjects[ARP_SCAN] = sweeps(peers.arp_scan, block)
            subjects[SRP] = sweeps(peers.scapy_srp, block, 2)
            subjects[DHCPCD] = _alone(world, lambda at, address: peers.dhcpcd(at, "eth0", f"{address}/16"), used)
            if what != STATION:
                subjects[AVAHI] = _alone(
                    world, lambda at, address: peers.avahi_autoipd(at, "eth0", address), LINK_LOCAL
                )
            yield {name: take for name, take in subjects.items() if name in TIMINGS or _installed(name)}

    def _ours(self, world: World, timing: str, used: list[str]) -> Callable[[int], list[Values]]:
        options: dict[str, Any] = {
            "witnesses": [WITNESS],
            "timing": timing,
            "state_dir": world.host.directory / "state",
        }
        batch = used[:100] if self.quick else used
        free = FREE[:2] if self.quick else FREE

        def take(seed: int) -> list[Values]:
            with world.host.namespace.inside(), Allocator(world.host.bridge, seed=seed, **options) as allocator:
                with Stopwatch() as watch:
                    jobs = [allocator.start_probe([address], None) for address in free]
                    known = [job.future.result()[0] for job in jobs]
                jobs = [allocator.start_probe([address], None) for address in batch]
                probed = [job.future.result()[0] for job in jobs]
            values: list[Values] = [
                {
                    "called free": float(one.verdict is Verdict.FREE),
                    "called unknown": float(one.verdict is Verdict.UNKNOWN),
                }
                for one in probed
            ]
            for one in known:
                if one.verdict is Verdict.FREE:
                    bound = {} if one.miss_probability is None else {"stated": one.miss_probability}
                    values.append({"seconds to free": watch.seconds} | bound)
            return values

        return take

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """What was seen must be possible under what was stated; a link that carries nothing proves nothing."""
        for case in outcome.cases():
            for name in TIMINGS:
                seen = outcome.values("called free", name, case)
                if not seen or case["what"] == STATION:
                    continue
                found = stats.share(seen)
                stated = stats.summary(outcome.values("stated", name, case))
                # The adaptive timing keeps the bound that it was given; the others state what their probes were worth.
                bound = MISS_PROBABILITY if name == ADAPTIVE else 0.0 if stated is None else stated.high
                wrong = found.hits > 0 and found.low > bound
                if wrong or name == ADAPTIVE:
                    text = f"{name}, {case['what']} {case['value']}: {found.hits} of {found.samples} called free"
                    yield Remark(red=wrong, text=f"{text}, bound {bound:.1e}")


def _alone(
    world: World, ask: Callable[[Namespace, str], peers.Said], targets: list[str]
) -> Callable[[int], list[Values]]:
    """One process of a program in each client's namespace, at the same moment."""

    def take(_: int) -> list[Values]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return [{"called free": float(said.free)} for said in pool.map(ask, world.clients, targets)]

    return take


def _installed(name: str) -> bool:
    return not peers.missing(name.partition(" ")[0]) or name == SRP
