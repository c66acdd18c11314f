"""Stations that run what other people's machines run: real programs that take an address and watch over it.

    server = lab.run(Udhcpd, lab.station("server", wire, "172.16.42.2/24"), "172.16.42.10", "172.16.42.19")
    pi = lab.run(Dhcpcd, lab.station("pi", wire), "172.16.42.9/24")
    until(lambda: pi.addresses)

Each runs in its station's namespace with mounts and process ids of its own, so that nothing of it outlives it, and no
file of the machine is read or written. `missing()` says which program is not installed.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, ClassVar

from arpipam.lab.until import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from arpipam.lab.stations import LabStation

_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_HERE = "/mnt"
"""Where a program finds its own files: its folder lies below /run, which is empty for it."""
_PATIENCE = 20.0
_TICKS = 100
"""In which the kernel reads times, a second."""


class Program:
    """A program of a station; subclasses say which. `lab.run` starts it."""

    PROGRAM: ClassVar[str]
    """Its name, or its path where it is on nobody's PATH."""
    CHECKS: ClassVar[bool] = True
    """Whether it looks for other stations with its address before it takes it (RFC 5227)."""
    HOLDS: ClassVar[bool] = True
    """Whether it holds an address, as opposed to giving some out."""

    def __init__(self, station: LabStation, folder: Path) -> None:
        self.station = station
        self.folder = folder
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here; empty: it can."""
        return "" if which(cls.PROGRAM) or Path(cls.PROGRAM).exists() else f"{cls.PROGRAM} is not installed"

    def files(self) -> dict[str, str]:
        """Its files; it finds them in /mnt."""
        return {}

    def script(self) -> str:
        """Shell lines that end with `exec` of the program."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it."""
        self.folder.mkdir(exist_ok=True)
        for name, text in self.files().items():
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o755)
        mounts = f"mount --bind {self.folder} {_HERE}; mount -t tmpfs none /run"
        words = [*_UNSHARE, "sh", "-ec", f"{mounts}\n{self.script()}"]
        self._process = self.station.namespace.daemon(words, self.log)

    def stop(self) -> None:
        """End it as a power cut does: it says nothing to anybody, and its addresses go with it."""
        process, self._process = self._process, None
        if process is None:
            return
        # A namespace of processes ends with its first one, and `unshare` after that. To kill `unshare` alone is not
        # enough: a program that has changed its user outlives it.
        with suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        process.wait(_PATIENCE)  # by itself: killed, it would leave a dead child to the process that adopts it
        with suppress(RuntimeError):
            self.station.namespace.run("ip", "-4", "addr", "flush", "scope", "global")

    @property
    def runs(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    @property
    def addresses(self) -> set[str]:
        """Those that the station's kernel has from it."""
        return held(self.station)

    def said(self) -> str:
        """What it has logged, for a message."""
        return f"{type(self).__name__}: {self.log.read_text(errors='replace')[-3000:]}"

    def wait(self) -> str:
        """Wait until it has an address; which one."""
        until(lambda: self.addresses or not self.runs, lambda: f"an address for {self.said()}", pause=0.05)
        if not self.addresses:
            raise RuntimeError(f"it ended: {self.said()}")
        return min(self.addresses)


def held(station: LabStation) -> set[str]:
    """The addresses that a station's kernel has, but for those of its loopback."""
    links = json.loads(station.namespace.run("ip", "-j", "-4", "addr", "show"))
    return {entry["local"] for link in links if link["ifname"] != "lo" for entry in link["addr_info"]}


class Dhcpcd(Program):
    """dhcpcd 9.4, as Debian and Raspberry Pi OS have it: a static address with its prefix, or DHCP.

    It takes each probe for its address as a conflict: the second one within ten seconds costs it the address.
    """

    PROGRAM = "dhcpcd"

    def __init__(self, station: LabStation, folder: Path, address: str = "", *, request: str = "") -> None:
        super().__init__(station, folder)
        self._static = address
        self._request = request

    def script(self) -> str:
        """In front, without the machine's configuration and hooks."""
        options = f"-S ip_address={self._static}" if self._static else f"-r {self._request}" if self._request else ""
        return (
            "mount -t tmpfs none /var/lib/dhcpcd\n"
            f"exec dhcpcd -B -4 -d -t 0 --noipv4ll -f /dev/null -c /bin/true {options} eth0"
        )


class Udhcpc(Program):
    """`busybox udhcpc -a`: DHCP, and a look with ARP at what the server offers."""

    PROGRAM = "busybox"

    def __init__(self, station: LabStation, folder: Path, *, request: str = "") -> None:
        super().__init__(station, folder)
        self._request = request

    def files(self) -> dict[str, str]:
        """What it runs when it has got or lost an address."""
        return {
            "event": "#!/bin/sh\n"
            "case $1 in\n"
            "bound|renew) ip addr replace $ip/$mask dev $interface ;;\n"
            "deconfig) ip addr flush dev $interface ;;\n"
            "esac\n"
        }

    def script(self) -> str:
        """In front; it asks for an address quickly, and again soon after it had to decline one."""
        request = f"-r {self._request} " if self._request else ""
        return f"exec busybox udhcpc -a -f -i eth0 -s {_HERE}/event -T 1 -A 2 {request}"


class Udhcpd(Program):
    """`busybox udhcpd`: a DHCP server that gives out the addresses from `first` to `last`."""

    PROGRAM = "busybox"
    HOLDS = False

    def __init__(self, station: LabStation, folder: Path, first: str, last: str) -> None:
        super().__init__(station, folder)
        self._range = first, last

    def files(self) -> dict[str, str]:
        """Its configuration; what a client declined or is offered is kept from others for a moment only."""
        first, last = self._range
        return {
            "conf": f"start {first}\nend {last}\ninterface eth0\nlease_file /run/leases\npidfile /run/pid\n"
            "option subnet 255.255.255.0\noption lease 3600\nmin_lease 60\noffer_time 5\ndecline_time 120\n"
        }

    def script(self) -> str:
        """In front."""
        return f"touch /run/leases; exec busybox udhcpd -f -S {_HERE}/conf"


class AvahiAutoipd(Program):
    """avahi-autoipd: an address of 169.254/16 (RFC 3927), this one first."""

    PROGRAM = "avahi-autoipd"

    def __init__(self, station: LabStation, folder: Path, address: str) -> None:
        super().__init__(station, folder)
        self._address = address

    def files(self) -> dict[str, str]:
        """What it runs when it has got or lost an address: event, interface, address."""
        return {
            "event": "#!/bin/sh\n"
            "case $1 in\n"
            "BIND) ip addr replace $3/16 dev $2 ;;\n"
            "CONFLICT|UNBIND|STOP) ip addr del $3/16 dev $2 ;;\n"
            "esac\n"
        }

    def script(self) -> str:
        """In front, as root."""
        return (
            "mount -t tmpfs none /var/lib; mkdir -p /run/avahi-autoipd /var/lib/avahi-autoipd\n"
            "exec avahi-autoipd --debug --no-drop-root --no-chroot --no-proc-title --force-bind "
            f"--script={_HERE}/event -S {self._address} eth0"
        )


class Networkd(Program):
    """systemd-networkd with DuplicateAddressDetection=ipv4, or DHCP with SendDecline; neither systemd nor D-Bus runs.

    It waits for udev unless /sys is read-only, as in a container.
    """

    PROGRAM = "/lib/systemd/systemd-networkd"

    def __init__(self, station: LabStation, folder: Path, address: str = "") -> None:
        super().__init__(station, folder)
        self._static = address

    def files(self) -> dict[str, str]:
        """The network of eth0."""
        how = (
            f"[Address]\nAddress={self._static}\nDuplicateAddressDetection=ipv4\n"
            if self._static
            else "[DHCPv4]\nSendDecline=yes\nUseHostname=no\n"
        )
        return {
            "eth0.network": "[Match]\nName=eth0\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nLLDP=no\n"
            f"{'' if self._static else 'DHCP=ipv4'}\n{how}"
        }

    def script(self) -> str:
        """It finds only our file, and logs all it does."""
        return (
            "mount -t sysfs -o ro none /sys; mount -t proc none /proc\n"
            "mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp\n"
            f"cp {_HERE}/eth0.network /run/systemd/network/; chmod 644 /run/systemd/network/eth0.network\n"
            "chown -R systemd-network /run/systemd/netif\n"
            "SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console exec /lib/systemd/systemd-networkd"
        )


class Keepalived(Program):
    """keepalived, the only router of its VRRP group: `address` under the group's MAC (`vmac`) or its station's own.

    It looks for nobody. Its station needs an address of its own, from which it speaks to other routers.
    """

    PROGRAM = "keepalived"
    CHECKS = False

    def __init__(self, station: LabStation, folder: Path, address: str, *, vmac: bool, group: int = 51) -> None:
        super().__init__(station, folder)
        self._address = address
        self._vmac = vmac
        self._group = group

    def files(self) -> dict[str, str]:
        """One VRRP instance."""
        vmac = "use_vmac vmac0\nvmac_xmit_base\n" if self._vmac else ""
        return {
            "conf": "vrrp_instance lab {\nstate MASTER\ninterface eth0\n"
            f"virtual_router_id {self._group}\npriority 200\nadvert_int 1\n{vmac}"
            f"virtual_ipaddress {{\n{self._address}\n}}\n}}\n"
        }

    def script(self) -> str:
        """In front, VRRP only."""
        return (
            f"cp {_HERE}/conf /run/keepalived.conf; chmod 644 /run/keepalived.conf\n"
            "exec keepalived --dont-fork --log-console --log-detail --vrrp --use-file=/run/keepalived.conf "
            "--pid=/run/keepalived.pid --vrrp_pid=/run/vrrp.pid"
        )

    @property
    def addresses(self) -> set[str]:
        """The group's alone."""
        return super().addresses & {self._address.partition("/")[0]}


class ProxyRouter(Program):
    """A Linux router that answers ARP for what lies behind it (proxy_arp): `routed`, and nothing else.

    The kernel waits a random time before such an answer, up to `delay` (its default is 0.8 s), and has none for probes.
    """

    PROGRAM = "ip"
    CHECKS = False

    def __init__(
        self, station: LabStation, folder: Path, address: str, routed: Sequence[str] = (), *, delay: float = 0.8
    ) -> None:
        super().__init__(station, folder)
        self._address = address
        self._routed = routed
        self._delay = delay

    def script(self) -> str:
        """No program runs: the kernel does it all."""
        settings = "/proc/sys/net/ipv4"
        routes = "\n".join(f"ip route add {routed} dev behind" for routed in self._routed)
        return (
            "ip link add behind type veth peer name beyond; ip link set beyond up; ip link set behind up\n"
            f"ip addr replace {self._address} dev eth0\n{routes}\n"
            f"echo 1 > {settings}/ip_forward; echo 1 > {settings}/conf/eth0/proxy_arp\n"
            f"echo {self._delay * _TICKS:.0f} > {settings}/neigh/eth0/proxy_delay\n"
            "exec sleep infinity"
        )


class NetworkManager(Program):
    """NetworkManager with a D-Bus of its own; its n-acd looks for others for a second before it takes an address."""

    PROGRAM = "NetworkManager"

    def __init__(self, station: LabStation, folder: Path, address: str) -> None:
        super().__init__(station, folder)
        self._static = address

    @classmethod
    def missing(cls) -> str:
        """It needs D-Bus too."""
        return super().missing() or ("" if which("dbus-daemon") else "dbus-daemon is not installed")

    def files(self) -> dict[str, str]:
        """One connection, and a bus on which everything is allowed."""
        return {
            "bus.conf": '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" '
            '"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
            "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>"
            '<auth>EXTERNAL</auth><policy context="default"><allow own="*"/><allow send_destination="*"/>'
            '<allow receive_sender="*"/><allow user="*"/></policy></busconfig>\n',
            "nm.conf": "[main]\nplugins=keyfile\nno-auto-default=*\nauth-polkit=false\nrc-manager=unmanaged\n"
            "dns=none\n[keyfile]\npath=/run/connections\n[logging]\nlevel=DEBUG\nbackend=stderr\n"
            "[device]\nmatch-device=interface-name:eth0\nmanaged=1\n",
            "eth0.nmconnection": "[connection]\nid=eth0\nuuid=6d1a1e3e-2f0b-4c39-9d5f-0a1c6f7a4b10\ntype=ethernet\n"
            "interface-name=eth0\nautoconnect=true\n[ipv4]\nmethod=manual\n"
            f"address1={self._static}\ndad-timeout=1000\n[ipv6]\nmethod=disabled\n",
        }

    def script(self) -> str:
        """The bus, then NetworkManager in front."""
        return (
            "mount -t sysfs -o ro none /sys; mount -t proc none /proc; mount -t tmpfs none /var/lib\n"
            "mkdir -p /run/dbus /run/NetworkManager /run/connections /var/lib/NetworkManager\n"
            f"cp {_HERE}/eth0.nmconnection /run/connections/; chmod 600 /run/connections/eth0.nmconnection\n"
            f"dbus-daemon --config-file={_HERE}/bus.conf --nofork --nopidfile &\n"
            "while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done\n"
            f"exec NetworkManager --no-daemon --config={_HERE}/nm.conf --config-dir=/run/none "
            "--system-config-dir=/run/none --state-file=/run/nm.state"
        )
