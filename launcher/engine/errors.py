"""What can go wrong with Docker, beside what can go wrong on the wire."""

from __future__ import annotations

from arpipam.errors import ArpipamError


class EngineError(ArpipamError):
    """The Docker engine cannot be reached, or refused; the exit status is the one that `docker run` has for that."""

    exit_status = 125


class ElsewhereError(EngineError):
    """The engine is not on this host's links, or is not known to be."""
