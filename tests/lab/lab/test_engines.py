"""Engines of two ages, side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from arpipam.lab import Lab
from tests.support.engines import NEWER, needs_newer

pytestmark = pytest.mark.engine


@needs_newer
def test_hosts_of_one_lab_have_engines_of_two_ages() -> None:
    with Lab() as lab:
        hosts = [lab.host("own", engine=True), lab.host("newer", engine=NEWER)]
        lab.start()
        with ThreadPoolExecutor() as pool:
            own, newer = pool.map(lambda host: host.docker("version", "-f", "{{.Server.Version}}").stdout, hosts)
        assert newer.startswith(f"{NEWER}.")
        assert not own.startswith(f"{NEWER}.")
        for host in hosts:  # the newer one runs its containers with its own containerd
            assert host.docker("run", "--rm", "--network", "none", "busybox", "echo", "up").stdout == "up\n"


def test_an_engine_that_is_not_there_is_one_line() -> None:
    with Lab(engine="99.9") as lab, pytest.raises(RuntimeError, match=r"^no engine 99\.9 in /var/cache/arpipam-lab: "):
        lab.host("host", engine=True)
