"""The docker command, and the engine that it talks to."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from arpipam.errors import InputError
from launcher.engine.errors import EngineError
from launcher.engine.place import UNIX, path_of, require_here
from launcher.run.child import run_child
from launcher.run.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from launcher.engine.engine import Engine
    from launcher.engine.target import Target

OURS = {
    "--ip": "--ip",
    "--network": "--network",
    "--net": "--network",
    "--mac-address": "--mac",
}
"""docker's options that decide about the address, and our option that takes their place."""
_OPTION = re.compile(r"^\s+(?:-(\w), )?(--[\w-]+)(?: (\S+))?(?:\s{2,}|$)")
MAC_PER_ENDPOINT = 25  # from this version on the client refuses --mac-address where the engine's API is older than 1.44


class DockerCommand:
    """Runs `docker run` at the target's engine, whatever ages client and engine have. docker is always told which."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._needs_relay = False

    def knock(self) -> None:
        """Raise EngineError when no engine of this host listens there, before any address is claimed."""
        require_here(self.target.url)

    def learn(self, engine: Engine) -> None:
        """Find out how this client sets a MAC at this engine."""
        if engine.takes_mac_per_endpoint or _version() < MAC_PER_ENDPOINT:
            return
        if not self.target.url.startswith(UNIX):
            raise EngineError(
                f"this docker client sets no MAC at an engine as old as the one at {self.target.url}; use one before "
                "25.0, or reach the engine by its unix:// socket"
            )
        self._needs_relay = True

    def run(self, ours: Sequence[str], mac: str, theirs: Sequence[str], *, keep_open: Collection[int]) -> int:
        """Run `docker run` in our place, our arguments before theirs; see `run_child`."""
        url, context = self.target.url, self.target.context
        if not self._needs_relay:
            said = ["--mac-address", mac, *ours, *theirs]
            # A context has its TLS files too; for any other engine docker takes them from the environment, as we do.
            return self._run(["--context", context] if context else [], said, url, keep_open)
        with Relay(path_of(url), mac) as relay:
            return self._run([], [*ours, *theirs], relay.url, keep_open)

    @staticmethod
    def _run(before: Sequence[str], words: Sequence[str], url: str, keep_open: Collection[int]) -> int:
        environment = {
            name: value for name, value in os.environ.items() if name not in {"DOCKER_HOST", "DOCKER_CONTEXT"}
        }
        if not before:
            environment["DOCKER_HOST"] = url
        try:
            return run_child(["docker", *before, "run", *words], environment, keep_open=keep_open)
        except OSError as error:
            raise _no_client(error) from None


def refuse_ours(words: Sequence[str]) -> None:
    """Raise InputError where docker's own options, before the image, decide about the address.

    The client's own help tells which of its options take a value, so the image is found with clients of any age.
    """
    if not any(word.partition("=")[0] in OURS for word in words):
        return
    valued = _valued()
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in {"-", "--"}:
        name, has_value, _ = words[at].partition("=")
        if name in OURS:
            raise InputError(
                f"{name} among docker's options bypasses the check of the network; give {OURS[name]} first: "
                f"arpipam-run {OURS[name]} … IMAGE"
            )
        if not name.startswith("--"):
            letters = name[1:]
            wanting = next((place for place, letter in enumerate(letters) if f"-{letter}" in valued), None)
            takes_next = wanting == len(letters) - 1 and not has_value
        else:
            takes_next = name in valued and not has_value
        at += 2 if takes_next else 1


def _valued() -> set[str]:
    """The options of `docker run` that take a value."""
    try:
        shown = subprocess.run(["docker", "run", "--help"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise _no_client(error) from None
    found = (match for line in shown.splitlines() if (match := _OPTION.match(line)) and match[3])
    return {name for match in found for name in (f"-{match[1]}", match[2])}


def _version() -> int:
    """The client's first number, 0 when it has none (for example podman's, which has no such rule)."""
    try:
        said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise _no_client(error) from None
    found = re.search(r"Docker version (\d+)\.", said)
    return int(found[1]) if found else 0


def _no_client(error: OSError) -> EngineError:
    return EngineError(f"the docker command cannot be started ({error.strerror}): is it installed, and on the PATH?")
