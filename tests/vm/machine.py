"""Virtual machines with Debian's own kernel and systemd, in software emulation, on top of this machine's files."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
BOOT_PATIENCE = 240.0
"""Seconds that a machine gets to boot."""
_KERNEL_WORDS = (
    "console=ttyS0 quiet panic=1 net.ifnames=0 apparmor=0 systemd.unit=machine.target systemd.show_status=no"
)
MEMORY = "2200"
_NOT_NEEDED = (  # what a machine on another's files need not do
    *("systemd-remount-fs.service", "systemd-hwdb-update.service", "ldconfig.service", "systemd-sysusers.service"),
    *("systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-timesyncd.service"),
    *("systemd-udev-trigger.service", "systemd-networkd-wait-online.service", "systemd-firstboot.service"),
    *("apparmor.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "tmp.mount"),
)


class Machine:
    """One machine on the wire between two: number 1 listens there, number 2 connects.

    `run` runs commands in it as root. Its eth0 has the address 192.168.122.<number>/24.
    """

    def __init__(self, folder: Path, kernel: Path, number: int, wire: Path) -> None:
        self.name = f"host{number}"
        self.address = f"192.168.122.{number}"
        self.folder = folder / self.name
        self.console = self.folder / "console"
        self._number = number
        self._kernel = kernel
        self._wire = wire
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._number_of_question = 0
        self.folder.mkdir()
        self._make_disk()
        self._make_ram_disk()

    def start(self) -> None:
        """Switch it on."""
        server = "on" if self._number == 1 else "off"
        net = f"stream,id=net,server={server},addr.type=unix,addr.path={self._wire}"
        words = [
            *("setpriv", "--pdeathsig", "KILL"),  # however the tests end, it ends with them
            *("qemu-system-x86_64", "-m", MEMORY, "-smp", "1", "-nographic", "-monitor", "none", "-no-reboot"),
            *("-kernel", str(self._kernel / "vmlinuz"), "-initrd", str(self.folder / "ram.gz")),
            *("-netdev", net, "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:00:00:0{self._number},romfile="),
            *("-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"),
            *("-drive", f"file={self.folder}/disk,format=raw,if=virtio,cache=unsafe"),
            *("-serial", f"file:{self.console}", "-serial", f"unix:{self.folder}/port,server=on,wait=off"),
            *("-append", f"{_KERNEL_WORDS} systemd.hostname={self.name}"),
        ]
        with self.console.open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until it takes commands."""
        until = time.monotonic() + BOOT_PATIENCE
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not boot:\n{self.console.read_text(errors='replace')[-3000:]}")
            with suppress(OSError):
                self._connect(5.0)
                if self._ask({"words": [], "input": "", "env": {}}).get("ready"):
                    break
            time.sleep(0.5)
        assert self._socket is not None
        self._socket.settimeout(180.0)

    def run(
        self, *words: str, check: bool = True, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        answer = self._ask({"words": words, "input": base64.b64encode(stdin).decode(), "env": dict(env or {})})
        output, error = (base64.b64decode(answer[name]).decode(errors="replace") for name in ("output", "error"))
        if check and answer["status"]:
            raise RuntimeError(
                f"{self.name}: {' '.join(words)}: exit {answer['status']}: {error.strip()} {output.strip()}"
            )
        return subprocess.CompletedProcess(words, answer["status"], output, error)

    def reboot(self) -> None:
        """Pull the plug once all is on its disk, and switch it on again."""
        self.run("sync")
        self.close()
        self.start()
        self.wait()

    def close(self) -> None:
        """Pull the plug."""
        self._disconnect()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    # What it is made of.

    def _make_disk(self) -> None:
        disk = self.folder / "disk"
        with disk.open("wb") as file:
            file.truncate(4 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)

    def _make_ram_disk(self) -> None:
        """The initial RAM disk, with the files that make this machine what it is."""
        ram = self.folder / "ram"
        shutil.copytree(self._kernel / "ram", ram, symlinks=True)
        units = ram / "guest/etc/systemd/system"
        units.mkdir(parents=True)
        for name in _NOT_NEEDED:
            (units / name).symlink_to("/dev/null")
        (units / "machine.target").write_text(
            "[Unit]\nAllowIsolate=yes\nRequires=basic.target\nAfter=basic.target\n"
            "Wants=machine-agent.service machine-network.service docker.service openvswitch-switch.service\n"
        )
        (units / "machine-agent.service").write_text(
            f"[Service]\nExecStart={sys.executable} {HERE / 'guest.py'}\nEnvironment=HOME=/root\n"
            f"Environment=PATH={Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        )
        (units / "machine-network.service").write_text(
            "[Unit]\nBefore=network-online.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
            f"ExecStart=ip addr add {self.address}/24 dev eth0\nExecStart=ip link set eth0 up\n"
        )
        # Open vSwitch 3.1 counts no processors in the first ten seconds after boot, and then handles no packet.
        late = units / "ovs-vswitchd.service.d"
        late.mkdir()
        (late / "late.conf").write_text(
            "[Service]\nExecStartPre=/bin/sh -c 'while [ $(cut -d. -f1 /proc/uptime) -lt 12 ]; do sleep 0.5; done'\n"
        )
        quick = ram / "guest/etc/tmpfiles.d"
        quick.mkdir()
        (quick / "tmp.conf").symlink_to("/dev/null")  # /tmp is this machine's: there is nothing to clean up
        for unit in (HERE.parent.parent / "packaging").glob("arpipam-*.*"):
            shutil.copy(unit, units)
        # Python may be in a home folder, and this checkout in a temporary one: the unit would not see them.
        places = [Path(sys.executable), Path(sys.executable).resolve()]
        home, temporary = "ProtectHome=read-only", "PrivateTmp=no"
        hidden = {"/root": home, "/home": home, "/tmp": temporary, "/var/tmp": temporary}  # noqa: S108
        lines = {line for top, line in hidden.items() if any(place.is_relative_to(top) for place in places)}
        if lines:
            (units / "arpipam-agent.service.d").mkdir()
            (units / "arpipam-agent.service.d/here.conf").write_text("\n".join(["[Service]", *sorted(lines), ""]))
        programs = ram / "guest/usr/local/bin"
        programs.mkdir(parents=True)
        for name in ("arpipam", "arpipam-run"):
            (programs / name).symlink_to(Path(sys.executable).parent / name)
        engine = ram / "guest/etc/docker"
        engine.mkdir(parents=True)
        (engine / "daemon.json").write_text('{"bridge": "none"}\n')
        names = b"\0".join(os.fsencode(path.relative_to(ram)) for path in sorted(ram.rglob("*"))) + b"\0"
        words = ["cpio", "--quiet", "--null", "--create", "--format=newc"]
        archive = subprocess.run(words, cwd=ram, check=True, input=names, stdout=subprocess.PIPE).stdout
        (self.folder / "ram.gz").write_bytes(gzip.compress(archive, compresslevel=1))
        shutil.rmtree(ram)

    # The way to its agent.

    def _connect(self, timeout: float) -> None:
        self._disconnect()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(f"{self.folder}/port")

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to this question; what the firmware and the terminal's echo put in between is passed over."""
        assert self._socket is not None
        self._number_of_question += 1
        question["id"] = self._number_of_question
        self._socket.sendall(json.dumps(question).encode() + b"\n")
        heard = b""
        while True:
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError(f"{self.name} went away:\n{self.console.read_text(errors='replace')[-3000:]}")
            *lines, heard = (heard + piece).split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    answer: dict[str, Any] = json.loads(line)
                    if answer.get("answers") == question["id"]:
                        return answer
