"""The error tree.

Each error says what happened, on which link and address, and what to do next, in one line. `exit_status` is what the
command line tools exit with: 1 in use or nothing free, 2 bad input, 3 could not look.
"""

from __future__ import annotations


class ArpipamError(Exception):
    """Root of all errors that arpipam raises on purpose."""

    exit_status = 3


class InputError(ArpipamError, ValueError):
    """The caller asked for something that makes no sense: no such interface, a bad subnet, an address outside."""

    exit_status = 2


class AddressInUseError(ArpipamError):
    """A station on the link uses the address, or is claiming it at this moment."""

    exit_status = 1

    def __init__(self, text: str = "", mac: str | None = None) -> None:
        super().__init__(text)
        self.mac = mac
        """Of that station, where it is known."""


class AddressLeasedError(AddressInUseError):
    """This host has leased the address already."""


class PoolExhaustedError(ArpipamError):
    """Every address of the pool is used, reserved or being claimed by somebody."""

    exit_status = 1


class UnknownError(ArpipamError):
    """The wire could not be trusted: no witness answered, frames were dropped, one station answers for everything."""


class LinkError(ArpipamError):
    """The link cannot carry ARP: down, gone, without ARP, not Ethernet, or not permitted."""


class LeaseError(ArpipamError):
    """The lease store cannot be read or written."""
