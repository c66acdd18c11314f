"""Others who find out whether an address is free, driven as their users drive them.

Each answers one question, "is this address free?", or sweeps a subnet. What cannot be driven honestly in a network
namespace is left out, and `LEFT_OUT` says why.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, NamedTuple

from scapy.config import conf
from scapy.layers.l2 import ARP, Ether
from scapy.sendrecv import srp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arpipam.lab import Namespace

LEFT_OUT = (
    "NetworkManager and systemd-networkd detect conflicts only inside of services that want D-Bus or an init of their "
    "own, and all interfaces of the machine; n-acd, which NetworkManager uses, is in no package of its own. "
    "udhcpc -a probes nothing but what a DHCP server offers to it, and begins anew where that is in use, so its server "
    "would be measured with it."
)
ARP_SCAN_FAST = ("--bandwidth=1000000000", "--timeout=200", "--retry=1")
"""One request for each address, as fast as the kernel takes them, and 200 ms for the last answer."""
ARP_SCAN_TWICE = (*ARP_SCAN_FAST[:-1], "--retry=2")
"""The same, but who is silent is asked once more, as arpipam does."""
AVAHI_SUBNET = "169.254.0.0/16"
"""avahi-autoipd knows no other."""
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_PATIENCE = 30.0


class Said(NamedTuple):
    """A verdict on one address, and the seconds that it took."""

    free: bool
    seconds: float


def missing(*programs: str) -> list[str]:
    """Those that are not installed, as notes for the report."""
    return [f"{name} is not installed, so it takes no part." for name in programs if which(name) is None]


def arping(namespace: Namespace, interface: str, address: str, count: int, wait: int | None = None) -> Said:
    """`arping -D`, of iputils: the article's Option 1 for one address. Exit status 0 is "free"."""
    words = [*_arping(interface, count, wait), address]
    started = time.perf_counter()
    done = subprocess.run(namespace.enter(*words), check=False, capture_output=True)
    return Said(done.returncode == 0, time.perf_counter() - started)


def arping_first(
    namespace: Namespace, interface: str, addresses: Iterable[str], *, count: int, wait: int | None, limit: float
) -> tuple[str | None, float]:
    """One after the other over the candidates until one is free, in one shell; None after `limit` seconds."""
    probe = " ".join(_arping(interface, count, wait))
    script = f'while read address; do if {probe} "$address"; then echo "$address"; exit; fi; done'
    started = time.perf_counter()
    try:
        done = subprocess.run(
            namespace.enter("sh", "-c", script),
            input="\n".join(addresses) + "\n",
            text=True,
            check=False,
            capture_output=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None, limit
    return done.stdout.strip() or None, time.perf_counter() - started


def _arping(interface: str, count: int, wait: int | None) -> list[str]:
    return ["arping", "-D", "-q", "-I", interface, "-c", str(count), *([] if wait is None else ["-w", str(wait)])]


def arp_scan(interface: str, subnet: str, *options: str) -> set[str]:
    """The stations that arp-scan finds from here (to be called inside the namespace)."""
    words = ["arp-scan", "-q", "-x", "-I", interface, *options, subnet]
    done = subprocess.run(words, check=True, text=True, capture_output=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def scapy_srp(interface: str, subnet: str, timeout: float, retry: int = 0) -> set[str]:
    """The stations that scapy's `srp` finds from here, as its manual's `arping()` calls it (inside the namespace)."""
    conf.ifaces.reload()
    conf.route.resync()
    conf.iface = conf.ifaces.dev_from_name(interface)
    answered, _ = srp(
        Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=subnet), timeout=timeout, retry=retry, iface=interface, verbose=0
    )
    return {str(answer.psrc) for _, answer in answered}


def dhcpcd(namespace: Namespace, interface: str, address: str) -> Said:
    """`dhcpcd -S ip_address=…`: a static address, which it probes by RFC 5227 before it takes it."""
    folders = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd"
    program = f"exec dhcpcd -B -4 -d -t 0 --noipv4ll -f /dev/null -c /bin/true -S ip_address={address} {interface}"
    words = [*_UNSHARE, "sh", "-ec", f"{folders} && {program}"]
    said = _watch(namespace, words, free=r"DAD completed", used=r"DAD detected")
    _forget(namespace, interface, address)
    return said


def avahi_autoipd(namespace: Namespace, interface: str, address: str) -> Said:
    """avahi-autoipd told to start with one address of 169.254/16: it keeps it, or tries another."""
    folders = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /run/avahi-autoipd"
    program = (
        f"mkdir -p /var/lib/avahi-autoipd && exec avahi-autoipd --debug --no-drop-root --no-chroot --no-proc-title "
        f"--force-bind --script=/bin/true -S {address} {interface}"
    )
    return _watch(
        namespace,
        [*_UNSHARE, "sh", "-ec", f"{folders} && {program}"],
        free=rf"Callout BIND, address {re.escape(address)}\b",
        used=r"Received conflicting|Trying address",
    )


def _watch(namespace: Namespace, words: Sequence[str], *, used: str, free: str) -> Said:
    """Read what a program says until a verdict is in it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        namespace.enter(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 - a pipe, as asked for
    said = ""
    try:
        while time.perf_counter() - started < _PATIENCE:
            if select.select([process.stdout], [], [], 1)[0]:
                new = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
                said += new
                if re.search(used, said):
                    return Said(free=False, seconds=time.perf_counter() - started)
                if re.search(free, said):
                    return Said(free=True, seconds=time.perf_counter() - started)
                if not new:
                    break
        raise RuntimeError(f"{words[-1]}: no verdict: {said[-500:]}")
    finally:
        # A pid namespace ends with its first process, and unshare after that, so nothing of it is left then. To kill
        # unshare alone is not enough: a program that has changed its user outlives it.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in map(int, children or [str(process.pid)]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _forget(namespace: Namespace, interface: str, address: str) -> None:
    """What a program configured is taken away again."""
    with suppress(RuntimeError):
        namespace.ip([f"addr flush dev {interface} to {address.partition('/')[0]}"])
