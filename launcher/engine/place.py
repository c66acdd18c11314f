"""Whether an engine is on the links of this process: whether both are in the same namespace of networks.

An address that is found free here says nothing of an engine elsewhere. A process and its sockets tell where it is, as
far as this process may look at them.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from launcher.engine.errors import ElsewhereError, EngineError

UNIX = "unix://"
ENGINES = frozenset({"dockerd", "balenad", "podman"})
"""Names of engines' processes."""
PATIENCE = 10.0  # s until a connection by TCP
_INIT = 1
_LISTENING_UNIX, _LISTENING_TCP = "00010000", "0A"
"""As /proc/net has it: __SO_ACCEPTCON (linux/net.h) and TCP_LISTEN (net/tcp_states.h)."""
_FORWARDERS = ("ssh", "com.docker.")
"""Names of programs that pass a socket's words on to another machine, as they begin."""


def require_here(url: str) -> None:
    """Raise EngineError where nobody answers at the url, ElsewhereError where its engine is not on our links.

    One behind a unix:// socket is taken to be here unless it is seen elsewhere; one that is reached by TCP or SSH must
    be seen here.
    """
    if url.startswith(UNIX):
        _require_unix(url)
    elif url.startswith(("tcp://", "http://", "https://")):
        _require_tcp(url)
    else:
        raise _elsewhere(url, f"is reached by {url.partition('://')[0]}")


def path_of(url: str) -> str:
    """The path of a unix:// url as the kernel has it; an abstract one is written with @."""
    path = url.removeprefix(UNIX) or "/var/run/docker.sock"
    return "\0" + path[1:] if path.startswith("@") else path


def _require_unix(url: str) -> None:
    path = path_of(url)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            raise _unreachable(url, error) from None
        pid, _, _ = struct.unpack("iII", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if not pid:  # of another namespace of processes: it cannot be looked at
        return
    if pid == _INIT:  # which listens for the engine, and hands it the socket
        pid = _engine_with(_unix_sockets(path))[0] or pid
    name = _name(pid)
    if name.startswith(_FORWARDERS):
        raise _elsewhere(url, f"is behind {name}")
    there = _network_of(str(pid))
    if there is not None:
        is_here = there == _network_of("thread-self")
    else:  # we may not look into the process: its socket tells; an abstract one is reached from its own namespace only
        is_here = path.startswith("\0") or bool(_unix_sockets(path))
    if not is_here:
        raise _elsewhere(url, f"is in another network namespace (process {pid}, {name})")


def _require_tcp(url: str) -> None:
    parts = urlsplit(url)
    try:
        port = parts.port or (2376 if parts.scheme == "https" else 2375)
        with socket.create_connection((parts.hostname or "localhost", port), PATIENCE) as connection:
            peer, own = connection.getpeername()[0], connection.getsockname()[0]
    except (OSError, ValueError) as error:
        raise _unreachable(url, error) from None
    if peer != own:  # only with itself a host talks from the address that it talks to
        raise _elsewhere(url, f"is another station, {peer}")
    found, all_seen = _engine_with(_tcp_sockets(port))
    if all_seen and found is None:
        raise _elsewhere(url, "is behind a program that is not an engine")
    if found is not None and _network_of(str(found)) not in {None, _network_of("thread-self")}:
        raise _elsewhere(url, f"is in another network namespace (process {found})")


def _unix_sockets(path: str) -> set[str]:
    """The inodes of those that listen at the path, and were made in our namespace of networks."""
    found = set()
    shown = "@" + path[1:] if path.startswith("\0") else path
    for line in Path("/proc/thread-self/net/unix").read_text().splitlines()[1:]:
        words = line.split(None, 7)
        if len(words) == 8 and words[3] == _LISTENING_UNIX:  # noqa: PLR2004 - Num … Flags … Inode Path
            with suppress(OSError):
                if words[7] == shown or Path(path).samefile(words[7]):
                    found.add(words[6])
    return found


def _tcp_sockets(port: int) -> set[str]:
    """The inodes of those that listen on the port, in our namespace of networks."""
    found = set()
    for file in ("tcp", "tcp6"):
        with suppress(OSError):  # without IPv6 there is none
            for line in Path(f"/proc/thread-self/net/{file}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING_TCP and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(words[9])
    return found


def _engine_with(inodes: set[str]) -> tuple[int | None, bool]:
    """The engine's process that has one of these sockets, and whether we may look into all that might be it."""
    wanted, all_seen = {f"socket:[{inode}]" for inode in inodes}, True
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or _name(int(folder.name)) not in ENGINES:
            continue
        try:
            for entry in (folder / "fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    if str(entry.readlink()) in wanted:
                        return int(folder.name), True
        except PermissionError:
            all_seen = False
        except OSError:  # it has ended
            continue
    return None, all_seen


def _network_of(process: str) -> tuple[int, int] | None:
    """What tells the process's namespace of networks from others; None where we may not look, or it has ended."""
    try:
        found = os.stat(f"/proc/{process}/ns/net")  # noqa: PTH116 - a Path would resolve nothing more
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _unreachable(url: str, error: Exception) -> EngineError:
    why = getattr(error, "strerror", None) or str(error)
    return EngineError(f"cannot reach the Docker engine at {url}: {why}; is it running?")


def _elsewhere(url: str, why: str) -> ElsewhereError:
    return ElsewhereError(
        f"the engine at {url} {why}, and is not known to be on this host's links, where addresses are looked for; name "
        f"the engine of this host, such as unix:///var/run/docker.sock"
    )
