"""Docker's remote IPAM protocol, without its HTTP: a method and a body become a call on `Ipam`, and that an answer.

What comes in is an engine's, so it is checked as anything from outside is, and every refusal is one line: it is what
`docker run` and `docker network create` show. What the engine sends when, and what it makes of the answers, is its
libnetwork/ipams/remote and pkg/plugins.
"""

from __future__ import annotations

import json
import logging
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Protocol

from arpipam.errors import AddressInUseError, ArpipamError, InputError, PoolExhaustedError
from arpipam.protocol import arp
from launcher.agent.contract import AddressKind, AddressRequest, PoolRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

OK = 200
REFUSED = 400
UNKNOWN_METHOD = 404
FAILED = 500
LONGEST_LINE = 1000
"""Characters of an error; what a caller sent may be in it."""
_LONGEST_POOL_ID = 512
_MOST_OPTIONS = 64
_LONGEST_OPTION = 1024
_LONGEST_SHOWN = 80
_ADDRESS_TYPE = "RequestAddressType"
_GATEWAY = "com.docker.network.gateway"
_MAC = "com.docker.network.endpoint.macaddress"
_log = logging.getLogger(__name__)


class Ipam(Protocol):
    """What is asked for addresses. All raise ArpipamError, in one line, where they refuse.

    A caller that hangs up cancels its `request_address`: what was taken for it by then is to be given back.
    """

    async def activate(self) -> None:
        """An engine has started, or met this driver for the first time: once in its life, before all else.

        It gave back none of its pools when it ended, and asks for each of them again.
        """

    async def request_pool(self, request: PoolRequest) -> tuple[str, IPv4Network]:
        """The pool's id and its subnet; the same id for what is the same pool."""

    async def release_pool(self, pool: str) -> None:
        """A network has no use for its pool any more. One that is not known is no fault."""

    async def request_address(self, request: AddressRequest) -> IPv4Interface:
        """An address, with its prefix."""

    async def release_address(self, pool: str, address: IPv4Address) -> None:
        """An address is not used any more. One that is not known is no fault."""


async def answer(ipam: Ipam, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """What the engine gets for this request: an HTTP status and an object. Never raises, but where it is cancelled."""
    if method in _FIXED:
        return OK, dict(_FIXED[method])
    if method not in _METHODS:
        return _refusal(UNKNOWN_METHOD, f"{_shown(method)} is no method of an IPAM driver")
    try:
        return OK, await _METHODS[method](ipam, {} if method == _ACTIVATE else _arguments(body))
    except ArpipamError as error:
        wrong = isinstance(error, (InputError, AddressInUseError, PoolExhaustedError))
        return _refusal(REFUSED if wrong else FAILED, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, no traceback goes to Docker
        _log.exception("%s failed", method)
        return _refusal(FAILED, f"arpipam: {method} failed ({type(error).__name__}); its log says more")


async def take_back(ipam: Ipam, method: str, body: bytes, answered: Mapping[str, Any]) -> None:
    """The engine never got this answer: a container's address in it belongs to nobody. Never raises, as `answer`.

    A gateway and what is given stays: the engine asks again for it, and it was in use before.
    """
    if method != _REQUEST_ADDRESS or "Address" not in answered:
        return
    try:
        request = _address_request(_arguments(body))
        if request.kind is AddressKind.ENDPOINT:
            await ipam.release_address(request.pool, IPv4Interface(answered["Address"]).ip)
    except ArpipamError as error:
        _log.warning("address %s, whose caller is gone, is not given back: %s", answered["Address"], one_line(error))
    except (Exception, SystemExit):  # noqa: BLE001 - nobody is left whom it would tell anything
        _log.exception("address %s, whose caller is gone, is not given back", answered["Address"])


def one_line(text: object) -> str:
    """An error as the one line that leaves the program."""
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def refusal(text: object) -> dict[str, Any]:
    """An error as engines read it: with this status `Err`, in answers with status 200 `Error`."""
    line = one_line(text) or "arpipam: refused"
    return {"Err": line, "Error": line}


def _refusal(status: int, text: object) -> tuple[int, dict[str, Any]]:
    return status, refusal(text)


async def _activate(ipam: Ipam, _: Mapping[str, Any]) -> dict[str, Any]:
    await ipam.activate()
    return {"Implements": ["IpamDriver"]}


async def _request_pool(ipam: Ipam, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if _flag(arguments, "V6"):
        raise InputError("arpipam hands out IPv4 addresses only: create the network without --ipv6 and IPv6 subnets")
    text = _text(arguments, "Pool", _LONGEST_SHOWN)
    if not text:
        raise InputError("arpipam picks no subnet by itself: give the link's own with --subnet, say 172.16.42.0/24")
    subnet = _network(text, "--subnet")
    inner = _text(arguments, "SubPool", _LONGEST_SHOWN)
    ranges = _network(inner, "--ip-range") if inner else None
    if ranges is not None and not ranges.subnet_of(subnet):
        raise InputError(f"--ip-range {ranges} is not within --subnet {subnet}; give a part of it")
    pool, given = await ipam.request_pool(PoolRequest(subnet, ranges, _options(arguments)))
    return {"PoolID": pool, "Pool": str(given), "Data": {}}


async def _release_pool(ipam: Ipam, arguments: Mapping[str, Any]) -> dict[str, Any]:
    await ipam.release_pool(_pool_id(arguments))
    return {}


async def _request_address(ipam: Ipam, arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = await ipam.request_address(_address_request(arguments))
    return {"Address": given.with_prefixlen, "Data": {}}


async def _release_address(ipam: Ipam, arguments: Mapping[str, Any]) -> dict[str, Any]:
    pool, address = _pool_id(arguments), _address(arguments)
    if address is None:
        raise InputError("ReleaseAddress without an Address: say which")
    await ipam.release_address(pool, address)
    return {}


def _address_request(arguments: Mapping[str, Any]) -> AddressRequest:
    """What kind of address it is follows from what is there: the engine does not say more."""
    pool, address, options = _pool_id(arguments), _address(arguments), _options(arguments)
    mac = arp.mac_text(arp.mac_bytes(options[_MAC])) if options.get(_MAC) else None
    if options.get(_ADDRESS_TYPE) == _GATEWAY:
        return AddressRequest(pool, AddressKind.GATEWAY, address, mac)
    if mac is not None:
        return AddressRequest(pool, AddressKind.ENDPOINT, address, mac)
    if address is not None:
        return AddressRequest(pool, AddressKind.GIVEN, address, None)
    raise InputError(
        "the engine asks for an address and names no MAC address that will own it; it missed that this driver needs "
        "one (GetCapabilities): restart the engine"
    )


def _arguments(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise InputError(
            "the request came without its body, as engines send it when they try again after a lost connection; "
            "start the container again"
        )
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the request's body is not JSON") from None
    if not isinstance(arguments, dict):
        raise InputError("the request's body is JSON, but no object")
    return arguments


def _text(arguments: Mapping[str, Any], name: str, longest: int) -> str:
    """A string; where it is missing or null an empty one, as Go has it."""
    value = arguments.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{name} is {_shown(value)}: a string is needed")
    if len(value) > longest:
        raise InputError(f"{name} is longer than {longest} characters: {_shown(value)}")
    return value


def _flag(arguments: Mapping[str, Any], name: str) -> bool:
    value = arguments.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name} is {_shown(value)}: true or false is needed")
    return bool(value)


def _pool_id(arguments: Mapping[str, Any]) -> str:
    pool = _text(arguments, "PoolID", _LONGEST_POOL_ID)
    if not pool:
        raise InputError("PoolID is missing: say which pool")
    return pool


def _address(arguments: Mapping[str, Any]) -> IPv4Address | None:
    text = _text(arguments, "Address", _LONGEST_SHOWN)
    if not text:
        return None
    try:
        return IPv4Address(text)
    except ValueError:
        raise InputError(f"{_shown(text)} is not an IPv4 address such as 172.16.42.7") from None


def _network(text: str, option: str) -> IPv4Network:
    """A subnet; with host bits set it is the subnet around that address, as for the engine's own IPAM."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise InputError(f"{option} {_shown(text)} is not a subnet such as 172.16.42.0/24") from None
    if isinstance(network, IPv6Network):
        raise InputError(f"arpipam hands out IPv4 addresses only: {option} {network} is IPv6; leave it out")
    return network


def _options(arguments: Mapping[str, Any]) -> dict[str, str]:
    options = arguments.get("Options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InputError(f"Options is {_shown(options)}: an object is needed")
    if len(options) > _MOST_OPTIONS:
        raise InputError(f"{len(options)} options: {_MOST_OPTIONS} are the most")
    return {_option(name): _option(_text(options, name, _LONGEST_OPTION)) for name in options}


def _option(text: str) -> str:
    if len(text) > _LONGEST_OPTION:
        raise InputError(f"an option is longer than {_LONGEST_OPTION} characters: {_shown(text)}")
    return text


def _shown(value: object) -> str:
    """What came in, short enough for a line."""
    text = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


_ACTIVATE = "Plugin.Activate"
_REQUEST_ADDRESS = "IpamDriver.RequestAddress"
_FIXED: Mapping[str, Mapping[str, Any]] = {
    # With the MAC the address is looked for and announced under the very MAC that will own it. With the replay an
    # engine that starts tells its networks and the containers that still run, so that nothing of theirs is given away;
    # without it the engine looks for its drivers all the same, so it costs no time. Strings would be taken for false.
    "IpamDriver.GetCapabilities": {"RequiresMACAddress": True, "RequiresRequestReplay": True},
    "IpamDriver.GetDefaultAddressSpaces": {
        "LocalDefaultAddressSpace": "arpipam-local",
        "GlobalDefaultAddressSpace": "arpipam-global",
    },
}
"""These have no arguments, and an empty body, as Plugin.Activate."""
_METHODS: Mapping[str, Callable[[Ipam, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    _ACTIVATE: _activate,
    "IpamDriver.RequestPool": _request_pool,
    "IpamDriver.ReleasePool": _release_pool,
    _REQUEST_ADDRESS: _request_address,
    "IpamDriver.ReleaseAddress": _release_address,
}
