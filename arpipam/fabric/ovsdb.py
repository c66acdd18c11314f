"""Open vSwitch's side of the fabric, over OVSDB (RFC 7047): what there is, and all steps in one transaction.

Over the control socket of ovs-vswitchd (ovs-appctl(8)) it also tells behind which tunnel a station was learned.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ovs.db.idl
import ovs.poller
from ovs.unixctl.client import UnixctlClient

from arpipam.errors import LinkError
from arpipam.fabric.config import DEFAULT_OVSDB
from arpipam.fabric.observed import ObservedSwitch, OvsBridgeState, Port
from arpipam.fabric.steps import MARK, OvsBridge, OvsPort, OvsSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from arpipam.fabric.steps import Step

_PATIENCE = 10.0
"""Seconds that the database gets to answer, and the switch to follow."""
_COLUMNS = {
    "Open_vSwitch": ["bridges", "cur_cfg", "next_cfg", "datapath_types"],
    "Bridge": ["name", "ports", "datapath_type", "external_ids", "other_config"],
    "Port": ["name", "interfaces", "protected", "external_ids"],
    "Interface": [
        *("name", "type", "options", "bfd", "bfd_status", "mtu_request", "ofport", "error"),
        *("external_ids", "link_state"),
    ],
}


def default_remote() -> str:
    """Where the database of this host listens; OVS_RUNDIR is honoured."""
    folder = os.environ.get("OVS_RUNDIR")
    return f"unix:{folder}/db.sock" if folder else DEFAULT_OVSDB


class Ovsdb:
    """A connection to the database of one Open vSwitch. Raises LinkError where it does not answer."""

    def __init__(self, remote: str) -> None:
        self.remote = remote
        if remote.startswith("unix:") and not Path(remote.removeprefix("unix:")).exists():
            raise LinkError(
                f"Open vSwitch: no database at {remote}; start it (systemctl start openvswitch-switch), or say where "
                "it is with --ovsdb"
            )
        schema = ovs.db.idl.SchemaHelper(schema_json=self._schema())
        for table, columns in _COLUMNS.items():
            schema.register_columns(table, columns)
        self._idl = ovs.db.idl.Idl(remote, schema)
        try:
            self._until(self._idl.has_ever_connected, f"no answer from the database at {remote} within")
            [self._root] = self._idl.tables["Open_vSwitch"].rows.values()
        except BaseException:
            self._idl.close()
            raise

    def observe(self) -> ObservedSwitch:
        """The bridges and ports there are."""
        self._idl.run()
        root = self._root
        bridges, ports = {}, {}
        for bridge in root.bridges:
            bridges[bridge.name] = OvsBridgeState(
                name=bridge.name,
                datapath=bridge.datapath_type,
                hwaddr=bridge.other_config.get("hwaddr", ""),
                mine=MARK in bridge.external_ids,
            )
            for port in bridge.ports:
                if port.interfaces:
                    ports[port.name] = _port(bridge.name, port, port.interfaces[0])
        return ObservedSwitch(frozenset(root.datapath_types), bridges, ports)

    def commit(self, steps: Sequence[Step], *, tolerant: bool = False) -> None:
        """Do all of the steps or none of them, and wait until the switch has followed.

        `tolerant`: what is gone already need not be removed. Raises LinkError where that fails.
        """
        while True:
            transaction = ovs.db.idl.Transaction(self._idl)
            transaction.add_comment("arpipam fabric")
            for step in steps:
                self._do(transaction, step, tolerant=tolerant)
            self._root.increment("next_cfg")
            status = transaction.commit_block()
            if status != ovs.db.idl.Transaction.TRY_AGAIN:
                break
            self._idl.run()
        if status == ovs.db.idl.Transaction.UNCHANGED:
            return
        if status != ovs.db.idl.Transaction.SUCCESS:
            raise LinkError(f"Open vSwitch refuses the changes: {transaction.get_error()}")
        configuration = transaction.get_increment_new_value()
        self._until(
            lambda: bool(self._root.cur_cfg >= configuration),
            "ovs-vswitchd does not follow its database (is it running?) after",
        )

    def alive(self) -> None:
        """Raises LinkError where no ovs-vswitchd follows the database; one on another machine is trusted."""
        if self.remote.startswith("unix:"):
            _control(self.remote, "version")

    def settle(self, names: Sequence[str]) -> list[str]:
        """Wait until each of these ports has a number or an error; the errors."""
        with suppress(LinkError):
            self._until(lambda: all(self._settled(name) for name in names), "")
        ports = self.observe().ports
        return [
            f"Open vSwitch port {name}: {ports[name].error or 'not set up'}"
            for name in names
            if name in ports and (ports[name].error or ports[name].ofport in {None, -1})
        ]

    def learned(self, bridge: str) -> dict[str, str]:
        """By MAC: the port behind which the switch has learned it. Raises LinkError where that cannot be asked."""
        numbers = {port.ofport: port.name for port in self.observe().ports.values() if port.bridge == bridge}
        found = {}
        for line in _control(self.remote, "fdb/show", bridge).splitlines():
            fields = line.split()
            if len(fields) == 4 and re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", fields[2]):  # noqa: PLR2004 - its columns
                port = fields[0]
                found[fields[2]] = numbers.get(int(port), port) if port.isdecimal() else bridge
        return found

    def close(self) -> None:
        """End the connection."""
        self._idl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # One transaction.

    def _do(self, transaction: Any, step: Step, *, tolerant: bool) -> None:
        if isinstance(step, OvsBridge):
            self._do_bridge(transaction, step)
        elif isinstance(step, OvsPort):
            self._do_port(transaction, step)
        elif isinstance(step, OvsSet):
            row = self._row(step.table, step.name)
            if row is not None:
                setattr(row, step.column, [] if step.value is None else step.value)
            elif not tolerant:
                raise LinkError(f"{step.text}: Open vSwitch has no {step.table} {step.name} any more; try again")
        else:
            raise TypeError(f"{step.text} is no step of Open vSwitch's")

    def _do_bridge(self, transaction: Any, step: OvsBridge) -> None:
        row = self._row("Bridge", step.name)
        if not step.present:
            if row is not None and MARK in row.external_ids:
                self._root.delvalue("bridges", row)
            return
        if row is None:
            row = transaction.insert(self._idl.tables["Bridge"])
            row.name = step.name
            row.datapath_type = step.datapath
            row.external_ids = {MARK: "fabric"}
            if step.hwaddr:
                row.other_config = {"hwaddr": step.hwaddr}
            self._root.addvalue("bridges", row)
            self._do_port(transaction, OvsPort(step.name, step.name, present=True, kind="internal"))

    def _do_port(self, transaction: Any, step: OvsPort) -> None:
        bridge = self._row("Bridge", step.bridge)
        port = self._row("Port", step.name)
        if not step.present:
            if bridge is not None and port is not None and MARK in port.external_ids:
                bridge.delvalue("ports", port)
            return
        if bridge is None:
            raise LinkError(f"{step.text}: Open vSwitch has no bridge {step.bridge}")
        if port is None or port not in bridge.ports:
            interface = transaction.insert(self._idl.tables["Interface"])
            interface.name = step.name
            interface.type = step.kind
            interface.options = step.options or {}
            interface.bfd = step.bfd or {}
            interface.external_ids = {MARK: "fabric"}
            port = transaction.insert(self._idl.tables["Port"])
            port.name = step.name
            port.interfaces = [interface]
            port.protected = step.protected
            port.external_ids = {MARK: "fabric"}
            bridge.addvalue("ports", port)

    def _row(self, table: str, name: str) -> Any:
        return next((row for row in self._idl.tables[table].rows.values() if row.name == name), None)

    def _settled(self, name: str) -> bool:
        row = self._row("Interface", name)
        return row is not None and bool(row.ofport or row.error)

    def _until(self, condition: Callable[[], bool], complaint: str) -> None:
        end = time.monotonic() + _PATIENCE
        self._idl.run()
        while not condition():
            if time.monotonic() >= end:
                raise LinkError(f"Open vSwitch: {complaint} {_PATIENCE:g} s; see ovs-vsctl show and its log")
            poller = ovs.poller.Poller()
            self._idl.wait(poller)
            poller.timer_wait(100)
            poller.block()
            self._idl.run()

    def _schema(self) -> Any:
        """The schema that this database has."""
        error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(self.remote), int(_PATIENCE * 1000))
        if error:
            raise LinkError(
                f"Open vSwitch: no answer from its database at {self.remote}: {os.strerror(error)}; is it running, and "
                "are you root?"
            )
        connection = ovs.jsonrpc.Connection(stream)
        try:
            request = ovs.jsonrpc.Message.create_request("get_schema", ["Open_vSwitch"])
            error, reply = connection.transact_block(request)
        finally:
            connection.close()
        if error or reply.error:
            raise LinkError(f"Open vSwitch: the database at {self.remote} is none of Open vSwitch's")
        return reply.result


def _control(remote: str, command: str, *words: str) -> str:
    """Ask ovs-vswitchd over its control socket, which stands beside the database's."""
    folder = Path(remote.removeprefix("unix:")).parent
    try:
        number = (folder / "ovs-vswitchd.pid").read_text().strip()
        error, client = UnixctlClient.create(str(folder / f"ovs-vswitchd.{number}.ctl"))
    except OSError as trouble:
        raise LinkError(f"ovs-vswitchd cannot be asked: {trouble}; is it running?") from None
    if error:
        raise LinkError(f"ovs-vswitchd cannot be asked: {os.strerror(error)}; is it running?")
    try:
        error, refusal, result = client.transact(command, list(words))
    finally:
        client.close()
    if error or refusal:
        raise LinkError(f"ovs-vswitchd does not answer {command}: {refusal or os.strerror(error)}")
    return str(result)


def _port(bridge: str, port: Any, interface: Any) -> Port:
    return Port(
        name=port.name,
        bridge=bridge,
        kind="" if interface.type == "system" else interface.type,
        options=dict(interface.options),
        protected=bool(port.protected),
        bfd=dict(interface.bfd),
        mine=MARK in port.external_ids,
        mtu_request=interface.mtu_request[0] if interface.mtu_request else None,
        ofport=interface.ofport[0] if interface.ofport else None,
        error=interface.error[0] if interface.error else "",
        bfd_status=dict(interface.bfd_status),
    )
