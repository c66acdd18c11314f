"""A docker engine of its own for a host of the lab."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.lab.namespace import Namespace

CLIENTS = tuple(dict.fromkeys(path for path in (which("docker"), "/usr/bin/docker") if path and Path(path).exists()))
"""The docker clients of this machine, which may be of different ages."""
UNPACKED = Path("/var/cache/arpipam-lab")
"""Where .ci/engine-26 puts an engine of another age than this machine's own."""
_PATIENCE = 60.0
_BUSYBOX = Path("/bin/busybox")


def is_unpacked(version: str) -> bool:
    """Whether an engine of that version is there, beside this machine's own."""
    return (UNPACKED / f"engine-{version}" / "usr/sbin/dockerd").exists()


class LabEngine:
    """dockerd with folders and a socket of its own, in a mount namespace, so that /run/docker is its own too.

    It is this machine's own, or that of an unpacked `version`. As on a machine, what it has mounted outlives it.
    """

    def __init__(self, namespace: Namespace, directory: Path, client: str | None, version: str = "") -> None:
        if version and not is_unpacked(version):
            raise RuntimeError(f"no engine {version} in {UNPACKED}: .ci/engine-26 unpacks 26.1")
        folder = UNPACKED / f"engine-{version}" / "usr"
        self._path = os.pathsep.join([f"{folder}/sbin", f"{folder}/bin"] * bool(version) + [os.environ["PATH"]])
        self.client = client or (CLIENTS[-1] if CLIENTS else "docker")
        self.socket = directory / "docker.sock"
        self.log = directory / "dockerd.log"
        self.env = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(directory / "client")}
        self._namespace = namespace
        self._directory = directory
        self._mounts: subprocess.Popen[bytes] | None = None
        """A process that keeps the mount namespace."""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the engine, wait until it answers, and give it the image `busybox`."""
        for name in ("run-docker", "client", "tmp"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        self._mounts = self._mounts or self._own_mounts()
        words = (
            f"dockerd --data-root {self._directory}/data --exec-root {self._directory}/exec "
            f"--pidfile {self._directory}/docker.pid -H unix://{self.socket} --bridge=none --iptables=false "
            f"--ip-forward=false --ip-masq=false --userland-proxy=false --cgroup-parent={self.cgroup(self._directory)}"
        ).split()
        # An engine whose containerd is stuck has it write down where (SIGUSR1), into the folder for temporary files.
        env = os.environ | {"TMPDIR": str(self._directory / "tmp"), "PATH": self._path}
        self.process = process = self._namespace.daemon(self.inside(*words, *options), self.log, env=env)
        self._wait(self._answers, process)
        image = ["-H", f"unix://{self.socket}", "import", "-", "busybox:latest"]
        subprocess.run([self.client, *image], input=rootfs(), check=True, capture_output=True)

    def inside(self, *words: str) -> list[str]:
        """The command that runs `words` with the engine's mounts; they are there from its first start on."""
        if self._mounts is None:
            raise RuntimeError("the engine was never started")
        return ["nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", *words]

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the engine by this signal, and wait until its containerd is gone too: the next one would take it over."""
        if self.process is None:
            return
        pid = (self._directory / "exec/containerd/containerd.pid").read_text().strip()
        self.process.send_signal(number)
        self.process.wait(_PATIENCE)
        self._wait(lambda: not Path("/proc", pid).exists())
        self.process = None

    def _own_mounts(self) -> subprocess.Popen[bytes]:
        script = (
            "mount --make-rprivate / && mkdir -p /run/docker && "
            f"mount --bind {self._directory}/run-docker /run/docker && exec tail -f /dev/null"
        )
        process = self._namespace.daemon(["unshare", "--mount", "sh", "-ec", script], self.log)
        self._wait(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "tail\n", process)
        return process

    def _wait(self, condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
        """Until the condition holds, which the process must live to see."""
        until = time.monotonic() + _PATIENCE
        while not condition():
            if (process and process.poll() is not None) or time.monotonic() > until:
                raise RuntimeError(f"the engine did not come up, or does not end:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    @staticmethod
    def cgroup(directory: Path) -> str:
        """The parent of the containers' control groups."""
        return f"/arpipam-lab-{directory.parent.name}-{directory.name}"

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(self.socket))
                sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in sock.recv(64)
        except OSError:
            return False


def rootfs() -> bytes:
    """A root file system of Debian's busybox-static and a link for each of its applets, as a tar archive."""
    applets = subprocess.run([_BUSYBOX, "--list"], check=True, text=True, capture_output=True).stdout.split()
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        content = _BUSYBOX.read_bytes()
        program.mode, program.size = 0o755, len(content)
        tar.addfile(program, BytesIO(content))
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return data.getvalue()
