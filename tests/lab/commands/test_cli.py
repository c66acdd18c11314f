"""`arpipam` as it is installed, on a host of the lab: what it prints, where, and with which exit status it ends."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.protocol import arp
from tests.support.lans import FREE, FREE_TOO, LONG, OWN, PRINTER, Lan, announcement, number, owners
from tests.support.tools import Tool, complaint
from tests.support.until import until

if TYPE_CHECKING:
    import subprocess

    from arpipam.lab.stations import LabStation


PHONE = "172.16.42.30"
NOT_ROOT = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PROBE_KEYS = ["address", "verdict", "mac", "rtt_ms", "probes", "miss_probability", "reason"]
FIND_KEYS = ["address", "prefix", "mac", "elapsed_ms", "probed", "in_use", "miss_probability"]
SCAN_KEYS = ["address", "mac", "rtt_ms"]
LEASE_KEYS = ["interface", "address", "prefix", "mac", "owner", "state", "container"]


@pytest.fixture(scope="module")
def lan(lan: Lan) -> Lan:
    """With an interface that is down."""
    lan.host.namespace.ip(["link add down0 type veth peer name down1"])
    return lan


@pytest.fixture(scope="module", autouse=True)
def phone(lan: Lan) -> LabStation:
    """One more station."""
    return lan.lab.station("phone", lan.wire, f"{PHONE}/24")


# probe


def test_probe_gives_a_verdict_on_each_address(lan: Lan, tool: Tool) -> None:
    rows = tool.json("probe", FREE, PRINTER, OWN, status=1)
    assert [list(row) for row in rows] == [PROBE_KEYS] * 3
    free, used, own = rows
    assert (free["address"], free["verdict"], free["mac"], free["reason"]) == (FREE, "free", None, "")
    assert free["probes"] >= 4
    assert 0 < free["miss_probability"] <= 1e-6
    assert (used["address"], used["verdict"], used["mac"]) == (PRINTER, "in_use", lan.printer.mac)
    assert used["rtt_ms"] > 0
    assert (own["verdict"], own["reason"]) == ("in_use", "this host's own address")


def test_a_pipe_gets_a_line_for_each_address_and_no_heading(tool: Tool) -> None:
    done = tool.run("probe", FREE, FREE_TOO)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t")[:3] for line in done.stdout.splitlines()] == [
        [FREE, "free", "-"],
        [FREE_TOO, "free", "-"],
    ]


def test_an_address_that_another_station_probes_for_is_contended(lan: Lan, tool: Tool) -> None:
    rival = "02:00:00:00:00:99"
    process = tool.spawn("probe", "--json", FREE)
    while process.poll() is None:
        lan.printer.send([arp.probe(arp.mac_bytes(rival), number(FREE))])
        time.sleep(0.005)
    assert process.returncode == 1
    assert process.stdout is not None
    row = json.loads(process.stdout.read())
    assert (row["verdict"], row["mac"]) == ("contended", rival)


def test_a_smaller_miss_probability_takes_more_probes(tool: Tool) -> None:
    words = ["probe", "--witness", PRINTER, "--miss-probability"]
    usual, sure = tool.both([*words, "0.1", FREE], [*words, "1e-9", FREE_TOO])
    assert usual["miss_probability"] > 1e-9 >= sure["miss_probability"]
    assert usual["probes"] < sure["probes"]


# find


def test_find_gives_the_first_address_that_nobody_has(tool: Tool) -> None:
    [row] = tool.json("find")
    assert list(row) == FIND_KEYS
    assert (row["address"], row["prefix"], row["in_use"]) == (FREE, 24, 2)
    assert int(row["mac"][:2], 16) & 3 == 2  # locally administered, one station's
    assert row["elapsed_ms"] > 0
    assert row["probed"] >= 2
    assert 0 < row["miss_probability"] <= 1e-6
    assert not tool.state.exists()  # finding makes no lease


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--exclude", FREE, "--exclude", "172.16.42.4-172.16.42.19"], "172.16.42.20"),
        (["--range", PRINTER, "--range", "172.16.42.77-172.16.42.78"], "172.16.42.77"),
        (["172.16.42.0/28", "--witness", PRINTER, "--rate", "200"], FREE),
    ],
)
def test_find_keeps_to_what_it_is_told(tool: Tool, words: list[str], expected: str) -> None:
    assert [row["address"] for row in tool.json("find", *words)] == [expected]


def test_options_are_environment_variables_too(tool: Tool) -> None:
    done = tool.run("find", "--json", ARPIPAM_EXCLUDE=f"{FREE} {FREE_TOO}", ARPIPAM_MAC="02:00:5E:00:00:07")
    row = json.loads(done.stdout)
    assert (row["address"], row["mac"]) == ("172.16.42.5", "02:00:5e:00:00:07")


def test_random_order_differs(tool: Tool) -> None:
    words = ["find", "172.16.0.0/16", "--witness", PRINTER, "--order", "random"]
    first, second = tool.both(words, words)
    assert first["address"] != second["address"]  # by chance alike once in 65000 times


def test_alone_needs_no_witness(tool_elsewhere: Tool) -> None:
    [row] = tool_elsewhere.json("find", "--alone")
    assert (row["address"], row["miss_probability"]) == (FREE, None)


# scan


def test_scan_lists_every_station(lan: Lan, tool: Tool, phone: LabStation) -> None:
    rows = tool.json("scan", "172.16.42.0/27", "--witness", PRINTER)
    assert [list(row) for row in rows] == [SCAN_KEYS] * 2
    assert [(row["address"], row["mac"]) for row in rows] == [(PRINTER, lan.printer.mac), (PHONE, phone.mac)]
    assert all(row["rtt_ms"] > 0 for row in rows)


def test_dropped_frames_make_a_scan_unknown(lan: Lan, tool: Tool) -> None:
    process = None
    with lan.wire.capture() as capture:
        # without CAP_NET_ADMIN its buffer is no larger than others'
        process = tool.spawn(
            "scan", "172.16.42.0/28", "--rate", "100", before=("setpriv", "--bounding-set", "-net_admin")
        )
        until(lambda: [packet for _, packet in capture.read() if packet.sender_ip == number(OWN)])
        process.send_signal(signal.SIGSTOP)
    room = 2 * int(Path("/proc/sys/net/core/rmem_max").read_text())
    lan.printer.send([announcement(lan.printer, PRINTER)] * (room // 256))  # each takes more than that
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (3, "")
    assert "dropped" in err
    assert len(err.splitlines()) == 1


# Where it goes: a terminal, a pipe.


@pytest.mark.parametrize(
    ("words", "status", "columns"),
    [
        (["probe", PRINTER], 1, PROBE_KEYS),
        (["scan", "172.16.42.0/28"], 0, SCAN_KEYS),
        (["leases"], 0, LEASE_KEYS),
    ],
)
def test_a_terminal_gets_a_table(tool: Tool, words: list[str], status: int, columns: list[str]) -> None:
    ended, seen = tool.terminal(*words)
    assert ended == status
    assert " ".join(columns).replace("_", " ") in " ".join(seen.split())
    assert "\t" not in seen


def test_a_reader_that_has_gone_ends_it_without_a_word(lan: Lan, tool: Tool) -> None:
    process = tool.spawn("claim", FREE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(LONG) == 141
    assert process.stderr.read() == ""
    assert owners(lan, FREE) == set()


# What it cannot do.


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("find", "-I", "none0"), 2, "no interface 'none0'"),
    (("find", "172.16.42.1/24"), 2, "has host bits set: write 172.16.42.0/24"),
    (("find", "--range", "172.16.42.9-172.16.42.2"), 2, "ends before it starts"),
    (("find", "--range", "10.0.0.1-10.0.0.9"), 2, "is not inside of 172.16.42.0/24"),
    (("find", "--exclude", "172.16.42.0/24"), 2, "leave no address"),
    (("find", "--mac", "02:00:00"), 2, "'02:00:00'"),
    (("claim", "--mac", "01:00:5e:00:00:01"), 2, "belongs to no single station"),
    (("find", "--witness", OWN), 2, "this host's own address"),
    (("find", "--rate", "0"), 2, "--rate"),
    (("probe",), 2, "Missing argument"),
    (("probe", "10.0.0.1"), 2, "10.0.0.1 is outside of 172.16.42.0/24"),
    (("probe", "172.16.42.255"), 2, "is the broadcast address"),
    (("claim", "10.0.0.1"), 2, "10.0.0.1 is outside of 172.16.42.0/24"),
    (("find", "--range", PRINTER), 1, "no free address left: 1 in use"),
    (("claim", PRINTER), 1, f"{PRINTER} is in use by"),
    (("find", "-I", "lo"), 3, "lo carries no ARP"),
    (("find", "-I", "down0"), 3, "down0 is down"),
    (("claim", "--state-dir", "/proc/none"), 3, "lease store /proc/none/leases.db"),
    (("renew",), 2, "No such command"),
]


@pytest.fixture(scope="module")
def refused(
    lan: Lan, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], subprocess.CompletedProcess[str]]:
    """How each of them ended. None of them gets so far that it would disturb another."""
    tool = Tool(lan.host, tmp_path_factory.mktemp("refused"))
    with ThreadPoolExecutor(max_workers=4) as pool:
        return {
            words: done
            for (words, *_), done in zip(REFUSED, pool.map(lambda row: tool.run(*row[0]), REFUSED), strict=True)
        }


@pytest.mark.parametrize(
    ("words", "status", "said"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_says_in_one_line_why_not(
    refused: dict[tuple[str, ...], subprocess.CompletedProcess[str]], words: tuple[str, ...], status: int, said: str
) -> None:
    assert refused[words].returncode == status
    assert said in complaint(refused[words])


@pytest.mark.parametrize(
    ("words", "said"),
    [(["find"], "docker0: raw frames are not permitted; run as root"), (["leases"], "Permission denied; run as root")],
)
def test_says_in_one_line_that_root_is_needed(tool: Tool, words: list[str], said: str) -> None:
    tool.state.mkdir(mode=0o700)
    done = tool.run(*words, before=NOT_ROOT)
    assert done.returncode == 3
    assert said in complaint(done)


def test_a_station_that_answers_for_everything_is_named(lan: Lan, tool_elsewhere: Tool) -> None:
    proxy = lan.lab.station("proxy", tool_elsewhere.host, everything=True)
    done = tool_elsewhere.run("find")
    assert done.returncode == 3
    assert f"{proxy.mac} answers for every address" in complaint(done)
    [row] = tool_elsewhere.json("probe", FREE, status=3)
    assert row["verdict"] == "unknown"
    assert proxy.mac in row["reason"]


def test_nothing_is_free_unless_each_witness_answers(lan: Lan, tool: Tool) -> None:
    witnesses = ["--witness", PHONE, "--witness", PRINTER]
    lan.wire.cut(lan.printer)
    try:
        done = tool.run("find", *witnesses)
        [row] = tool.json("probe", FREE, *witnesses, status=3)  # not beside the other: they would contend for it
    finally:
        lan.wire.heal()
    assert done.returncode == 3
    assert f"no answer from witness {PRINTER}:" in complaint(done)
    assert row["verdict"] == "unknown"
    assert f"no answer from witness {PRINTER}:" in row["reason"]
    assert [row["address"] for row in tool.json("find", *witnesses)] == [FREE]  # at once, when it is back
