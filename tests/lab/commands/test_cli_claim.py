"""`arpipam claim` and `arpipam leases` on a host of the lab, to whatever end they come."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

from tests.support.lans import FREE, LONG, Lan, announcement, number, owners
from tests.support.tools import Tool, complaint, states
from tests.support.until import until

if TYPE_CHECKING:
    from pathlib import Path

CLAIM_KEYS = ["address", "prefix", "mac", "state"]
LEASE_KEYS = ["interface", "address", "prefix", "mac", "owner", "state", "container"]


def test_claim_holds_the_address_until_it_is_interrupted(lan: Lan, tool: Tool) -> None:
    process, row = tool.claim()
    assert list(row) == CLAIM_KEYS
    assert (row["address"], row["prefix"]) == (FREE, 24)
    until(lambda: owners(lan, FREE) == {row["mac"]})
    [lease] = tool.json("leases")
    assert list(lease) == LEASE_KEYS
    known = {"interface": "docker0", "owner": "arpipam claim", "state": "claimed", "container": ""}
    assert lease == known | {name: row[name] for name in ("address", "prefix", "mac")}
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # who is in a hurry gets no other end
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (130, "")
    assert [row["state"], *states(out)] == ["announcing", "defending", "released"]
    assert owners(lan, FREE) == set()
    assert [lease["state"] for lease in tool.json("leases")] == ["quarantined"]


def test_claim_of_a_given_address_under_a_given_mac(lan: Lan, tool: Tool) -> None:
    process, row = tool.claim("172.16.42.60", "--mac", "02-00-5E-00-00-60")
    assert (row["address"], row["mac"]) == ("172.16.42.60", "02:00:5e:00:00:60")
    until(lambda: owners(lan, "172.16.42.60") == {"02:00:5e:00:00:60"})
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONG) == 130
    assert owners(lan, "172.16.42.60") == set()


def test_an_interrupted_search_leaves_nothing(lan: Lan, tool: Tool) -> None:
    with lan.wire.capture() as capture:
        process = tool.spawn("claim", "--timing", "rfc5227")  # which takes 4 s at least
        until(lambda: [packet for _, packet in capture.read() if packet.is_probe and packet.target_ip == number(FREE)])
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LONG) == ("", "")
        assert process.returncode == 130
    assert not [packet for _, packet in capture.packets if packet.sender_ip == number(FREE)]
    assert tool.json("leases") == []


def test_claim_ends_when_another_station_insists(lan: Lan, tool: Tool) -> None:
    process, row = tool.claim(FREE)
    while process.poll() is None:
        lan.printer.send([announcement(lan.printer, FREE)])
        time.sleep(0.01)
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 1
    assert err == f"arpipam: {lan.printer.mac} insists on {FREE}, so it was given up; claim another\n"
    assert [row["state"], *states(out)][-2:] == ["conflict", "released"]
    assert owners(lan, FREE) == set()


def test_claim_says_that_the_link_was_lost(own_tool: Tool) -> None:
    process, _ = own_tool.claim()
    own_tool.host.namespace.ip(["link set docker0 down"])
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 3
    assert err == f"arpipam: {FREE} was given up: docker0 is down; bring it up: ip link set docker0 up\n"
    assert states(out)[-2:] == ["link lost", "released"]


def test_an_address_that_another_process_holds_is_in_use(lan: Lan, tool: Tool, tmp_path: Path) -> None:
    _, row = tool.claim(FREE)
    done = tool.run("claim", FREE)
    assert done.returncode == 1
    assert f"{FREE} is leased on this host already" in complaint(done)
    done = tool.run("claim", FREE, ARPIPAM_STATE_DIR=str(tmp_path / "another"))  # it knows only what the wire says
    assert done.returncode == 1
    assert f"{FREE} is in use by {row['mac']}" in complaint(done)
    until(lambda: owners(lan, FREE) == {row["mac"]})


def test_leases_are_given_back_when_their_process_was_killed(tool: Tool) -> None:
    process, row = tool.claim(FREE)
    process.kill()
    process.wait()
    done = tool.run("leases", "--json")
    assert done.returncode == 0
    [line] = done.stderr.splitlines()  # no engine to ask
    assert "cannot reach the Docker engine" in line
    lease = json.loads(done.stdout)
    assert (lease["address"], lease["mac"], lease["state"]) == (FREE, row["mac"], "quarantined")


def test_no_leases_are_no_fault(tool: Tool) -> None:
    done = tool.run("leases")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not tool.state.exists()
