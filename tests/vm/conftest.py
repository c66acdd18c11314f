"""Two virtual machines on one wire, with the fabric's unit and the project's programs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.lab.engine import rootfs
from tests.vm.machine import HERE, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL = Path(os.environ.get("ARPIPAM_VM_KERNEL", HERE.parent.parent / ".vm"))


@pytest.fixture(scope="session")
def machines() -> Iterator[list[Machine]]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu is not installed here: virtual machines are not tried")
    subprocess.run([HERE / "kernel", KERNEL], check=True)
    with tempfile.TemporaryDirectory(prefix="arpipam-vm-") as folder:
        machines: list[Machine] = []
        try:
            for number in (1, 2):
                machines.append(Machine(Path(folder), KERNEL, number, Path(folder) / "wire"))
                machines[-1].start()
            with ThreadPoolExecutor() as pool:
                list(pool.map(prepare, machines))
            yield machines
        finally:
            for machine in machines:
                machine.close()


def prepare(machine: Machine) -> None:
    """Wait until it is up, and give its engine an image."""
    machine.wait()
    machine.run("sh", "-c", "until docker info >/dev/null 2>&1; do sleep 0.2; done")
    image = machine.folder / "image.tar"  # which it sees, as all files of this machine
    image.write_bytes(rootfs())
    machine.run("docker", "import", str(image), "busybox:latest")
