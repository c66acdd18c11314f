"""Where Open vSwitch's database is looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.errors import LinkError
from arpipam.fabric.config import DEFAULT_OVSDB
from arpipam.fabric.ovsdb import Ovsdb, default_remote

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    assert default_remote() == f"unix:{tmp_path}/db.sock"
    with pytest.raises(LinkError, match=f"no database at unix:{tmp_path}/db.sock"):
        Ovsdb(default_remote())


@pytest.mark.parametrize("value", [None, ""])
def test_else_it_is_where_open_vswitch_has_it(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("OVS_RUNDIR", raising=False)
    else:
        monkeypatch.setenv("OVS_RUNDIR", value)
    assert default_remote() == DEFAULT_OVSDB == "unix:/var/run/openvswitch/db.sock"
