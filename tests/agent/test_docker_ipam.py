"""Docker's remote IPAM protocol without HTTP. The bodies are those that engine 20.10 sends."""

from __future__ import annotations

import asyncio
import json
import logging
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import AddressInUseError, ArpipamError, InputError, LeaseError, PoolExhaustedError, UnknownError
from launcher.agent.contract import AddressKind as Kind
from launcher.agent.contract import AddressRequest, PoolRequest
from launcher.agent.server import docker_ipam

POOL = "docker0/10.1.0.0/24"
SUBNET = IPv4Network("10.1.0.0/24")
MAC = "02:42:24:df:a3:04"
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
ENDPOINT = {"com.docker.network.endpoint.macaddress": MAC}
METHODS = (
    "Plugin.Activate",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
)
WITH_ARGUMENTS = METHODS[3:]


class Recorder:
    """Writes down what it is asked for; gives 10.1.0.11, or what was asked for, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.asked: list[Any] = []
        self._error = error

    def _note(self, *what: Any) -> None:
        self.asked.append(what[0] if len(what) == 1 else what)
        if self._error is not None:
            raise self._error

    async def activate(self) -> None:
        self._note("activate")

    async def request_pool(self, request: PoolRequest) -> tuple[str, IPv4Network]:
        self._note(request)
        return f"docker0/{request.subnet}", request.subnet

    async def release_pool(self, pool: str) -> None:
        self._note("release", pool)

    async def request_address(self, request: AddressRequest) -> IPv4Interface:
        self._note(request)
        return IPv4Interface(f"{request.address or '10.1.0.11'}/24")

    async def release_address(self, pool: str, address: IPv4Address) -> None:
        self._note("release", pool, address)


def ask(
    method: str, arguments: Any = None, *, ipam: Recorder | None = None, body: bytes | None = None
) -> tuple[int, dict[str, Any]]:
    if body is None:
        body = b"" if arguments is None else json.dumps(arguments).encode() + b"\n"  # as Go's encoder ends it
    return asyncio.run(docker_ipam.answer(ipam or Recorder(), method, body))


def refused(status: int, answer: dict[str, Any]) -> str:
    """The one line of a refusal, as an engine shows it."""
    assert status >= 400  # with 200 engines look at other keys
    assert set(answer) == {"Err", "Error"}  # some engines and some statuses read one, some the other
    assert answer["Err"] == answer["Error"]
    line: str = answer["Err"]
    assert line
    assert line.splitlines() == [line]
    assert len(line) <= docker_ipam.LONGEST_LINE
    assert "Traceback" not in line
    return line


def asks_pool(**more: Any) -> dict[str, Any]:
    usual = {"AddressSpace": "arpipam-local", "Pool": "10.1.0.0/24", "SubPool": "", "Options": {}, "V6": False}
    return usual | more


def asks_address(address: str = "", options: Any = None, **more: Any) -> dict[str, Any]:
    return {"PoolID": POOL, "Address": address, "Options": options} | more


def test_an_engine_that_starts_is_told_what_this_is() -> None:
    ipam = Recorder()
    assert ask("Plugin.Activate", ipam=ipam) == (200, {"Implements": ["IpamDriver"]})
    assert ipam.asked == ["activate"]


def test_capabilities_are_booleans() -> None:
    """The text "true" would be taken for false, without a word."""
    status, answer = ask("IpamDriver.GetCapabilities")
    assert status == 200
    assert '"RequiresMACAddress": true' in json.dumps(answer)
    assert '"RequiresRequestReplay": true' in json.dumps(answer)


def test_address_spaces() -> None:
    status, answer = ask("IpamDriver.GetDefaultAddressSpaces")
    assert status == 200
    assert len(set(answer.values())) == 2
    assert set(answer) == {"LocalDefaultAddressSpace", "GlobalDefaultAddressSpace"}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, PoolRequest(SUBNET, None, {})),
        ({"Options": None, "V6": None, "SubPool": None}, PoolRequest(SUBNET, None, {})),
        ({"Pool": "10.1.0.7/24"}, PoolRequest(SUBNET, None, {})),  # the engine passes host bits on
        ({"SubPool": "10.1.0.128/26"}, PoolRequest(SUBNET, IPv4Network("10.1.0.128/26"), {})),
        ({"SubPool": "10.1.0.0/24"}, PoolRequest(SUBNET, SUBNET, {})),
        ({"Options": {"interface": "br1"}}, PoolRequest(SUBNET, None, {"interface": "br1"})),
        ({"Exclude": ["10.0.0.0/8"], "Novelty": {"a": []}}, PoolRequest(SUBNET, None, {})),  # a newer engine's
    ],
)
def test_a_pool(more: dict[str, Any], wanted: PoolRequest) -> None:
    ipam = Recorder()
    assert ask("IpamDriver.RequestPool", asks_pool(**more), ipam=ipam) == (
        200,
        {"PoolID": POOL, "Pool": "10.1.0.0/24", "Data": {}},
    )
    assert ipam.asked == [wanted]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"V6": True, "Pool": "fd00:9::/64"}, "IPv4 addresses only"),
        ({"V6": True, "Pool": ""}, "IPv4 addresses only"),
        ({"Pool": "fd00:9::/64"}, "is IPv6"),
        ({"SubPool": "fd00:9::/64"}, "--ip-range fd00:9::/64 is IPv6"),
        ({"Pool": ""}, "give the link's own with --subnet"),
        ({"Pool": None}, "--subnet"),
        ({"Pool": "10.1.0.0/33"}, "'10.1.0.0/33' is not a subnet"),
        ({"Pool": "lan"}, "--subnet 'lan' is not a subnet"),
        ({"SubPool": "10.2.0.0/26"}, "--ip-range 10.2.0.0/26 is not within --subnet 10.1.0.0/24"),
        ({"SubPool": "10.1.0.0/23"}, "is not within"),
        ({"Pool": 7}, "Pool is 7: a string is needed"),
        ({"V6": "false"}, "V6 is 'false': true or false is needed"),
        ({"Options": []}, "Options is a list: an object is needed"),
        ({"Options": {"interface": 1}}, "interface is 1: a string"),
        ({"Options": {"interface": {}}}, "interface is an object: a string"),
        ({"Options": {"a": "b" * 1025}}, "longer than 1024"),
        ({"Options": {"a" * 1025: "b"}}, "longer than 1024"),
        ({"Options": {str(n): "" for n in range(65)}}, "65 options: 64 are the most"),
        ({"Pool": "1" * 60000}, "Pool is longer than 80"),
    ],
)
def test_a_pool_that_is_refused(more: dict[str, Any], said: str) -> None:
    ipam = Recorder()
    status, answer = ask("IpamDriver.RequestPool", asks_pool(**more), ipam=ipam)
    assert said in refused(status, answer)
    assert status == 400
    assert ipam.asked == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (asks_address(options=GATEWAY), AddressRequest(POOL, Kind.GATEWAY, None, None)),
        (
            asks_address("10.1.0.254", GATEWAY),
            AddressRequest(POOL, Kind.GATEWAY, IPv4Address("10.1.0.254"), None),
        ),
        (asks_address("10.1.0.5"), AddressRequest(POOL, Kind.GIVEN, IPv4Address("10.1.0.5"), None)),
        (asks_address("10.1.0.5", {}), AddressRequest(POOL, Kind.GIVEN, IPv4Address("10.1.0.5"), None)),
        (asks_address(options=ENDPOINT), AddressRequest(POOL, Kind.ENDPOINT, None, MAC)),
        (asks_address(None, ENDPOINT), AddressRequest(POOL, Kind.ENDPOINT, None, MAC)),  # type: ignore[arg-type]
        (
            asks_address("10.1.0.77", ENDPOINT),
            AddressRequest(POOL, Kind.ENDPOINT, IPv4Address("10.1.0.77"), MAC),
        ),
        (
            asks_address(options=ENDPOINT | {"com.docker.network.ipam.serial": "true"}, New=1),
            AddressRequest(POOL, Kind.ENDPOINT, None, MAC),
        ),
        (
            asks_address(options={"com.docker.network.endpoint.macaddress": "02-42-24-DF-A3-04"}),
            AddressRequest(POOL, Kind.ENDPOINT, None, MAC),
        ),
    ],
)
def test_which_address_it_is(arguments: dict[str, Any], wanted: AddressRequest) -> None:
    ipam = Recorder()
    status, answer = ask("IpamDriver.RequestAddress", arguments, ipam=ipam)
    assert ipam.asked == [wanted]
    assert (status, answer) == (200, {"Address": f"{wanted.address or '10.1.0.11'}/24", "Data": {}})  # with its prefix


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (asks_address(), "names no MAC address"),
        (asks_address(options={"RequestAddressType": "novelty"}), "names no MAC address"),
        (asks_address("fd00::5", ENDPOINT), "'fd00::5' is not an IPv4 address"),
        (asks_address("10.1.0.5/24", ENDPOINT), "is not an IPv4 address"),
        (asks_address("10.1.0.5\n", ENDPOINT), "is not an IPv4 address"),
        (asks_address(7, ENDPOINT), "Address is 7"),  # type: ignore[arg-type]
        (asks_address(options={"com.docker.network.endpoint.macaddress": "02:42"}), "MAC address '02:42'"),
        (asks_address(options={"com.docker.network.endpoint.macaddress": "01:42:24:df:a3:04"}), "no single station"),
        (asks_address(options=[1]), "Options is a list"),
        ({"Address": "", "Options": ENDPOINT}, "PoolID is missing"),
        (asks_address(options=ENDPOINT, PoolID="p" * 513), "PoolID is longer than 512"),
        (asks_address(options=ENDPOINT, PoolID=["p"]), "PoolID is a list"),
    ],
)
def test_an_address_that_is_refused(arguments: dict[str, Any], said: str) -> None:
    ipam = Recorder()
    status, answer = ask("IpamDriver.RequestAddress", arguments, ipam=ipam)
    assert said in refused(status, answer)
    assert status == 400
    assert ipam.asked == []


def test_releases() -> None:
    ipam = Recorder()
    assert ask("IpamDriver.ReleaseAddress", {"PoolID": POOL, "Address": "10.1.0.11"}, ipam=ipam) == (200, {})
    assert ask("IpamDriver.ReleasePool", {"PoolID": POOL}, ipam=ipam) == (200, {})
    assert ipam.asked == [("release", POOL, IPv4Address("10.1.0.11")), ("release", POOL)]
    assert "without an Address" in refused(*ask("IpamDriver.ReleaseAddress", {"PoolID": POOL, "Address": ""}))


@pytest.mark.parametrize("method", WITH_ARGUMENTS)
@pytest.mark.parametrize("body", [b"", b"\n"])
def test_an_empty_body_is_refused(method: str, body: bytes) -> None:
    """An engine that tries again after its connection broke has nothing left to send."""
    ipam = Recorder()
    status, answer = ask(method, body=body, ipam=ipam)
    assert "without its body" in refused(status, answer)
    assert ipam.asked == []


@pytest.mark.parametrize("method", WITH_ARGUMENTS)
@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b"[" * 60000, b'{"a":' * 10000, b"1" * 5000, b"[]", b"null", b'"{}"']
)
def test_what_is_no_object(method: str, body: bytes) -> None:
    status, answer = ask(method, body=body)
    assert "JSON" in refused(status, answer)
    assert status == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no such\ninterface"), 400),
        (AddressInUseError("10.1.0.77 is in use"), 400),
        (PoolExhaustedError("nothing left"), 400),
        (UnknownError("host2 is silent"), 500),
        (LeaseError("disk full"), 500),
        (ArpipamError(""), 500),
        (InputError("x" * 70000), 400),
    ],
)
def test_an_error_is_its_one_line(error: ArpipamError, status: int) -> None:
    got, answer = ask("IpamDriver.RequestAddress", asks_address(options=ENDPOINT), ipam=Recorder(error))
    assert got == status
    line = refused(got, answer)
    assert line == (" ".join(str(error).split()) or "arpipam: refused") or line.endswith("…")


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), KeyError("x"), RecursionError(), MemoryError(), SystemExit(3)])
def test_an_unexpected_error_is_logged_and_one_line(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        line = refused(*ask("IpamDriver.RequestAddress", asks_address(options=ENDPOINT), ipam=Recorder(error)))
    assert line == f"arpipam: IpamDriver.RequestAddress failed ({type(error).__name__}); its log says more"
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


@pytest.mark.parametrize("method", ["IpamDriver.Novelty", "NetworkDriver.Join", "", "x" * 5000, "Plugin.Activate "])
def test_an_unknown_method(method: str) -> None:
    status, answer = ask(method)
    assert status == 404
    assert "is no method of an IPAM driver" in refused(status, answer)


def test_a_cancelled_request_is_cancelled_in_the_agent() -> None:
    class Slow(Recorder):
        cancelled = False

        async def request_address(self, request: AddressRequest) -> IPv4Interface:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return await super().request_address(request)

    async def hang_up(ipam: Slow) -> None:
        body = json.dumps(asks_address(options=ENDPOINT)).encode()
        task = asyncio.create_task(docker_ipam.answer(ipam, "IpamDriver.RequestAddress", body))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    ipam = Slow()
    asyncio.run(hang_up(ipam))
    assert ipam.cancelled


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (asks_address(options=ENDPOINT), [("release", POOL, IPv4Address("10.1.0.11"))]),
        (asks_address("10.1.0.77", ENDPOINT), [("release", POOL, IPv4Address("10.1.0.77"))]),
        (asks_address("10.1.0.254", GATEWAY), []),  # the network's own: it will be asked for again
        (asks_address("10.1.0.5"), []),  # a container that runs may have it
    ],
)
def test_an_answer_that_nobody_got_is_taken_back(arguments: dict[str, Any], taken: list[Any]) -> None:
    body = json.dumps(arguments).encode()
    method = "IpamDriver.RequestAddress"

    async def lost(ipam: Recorder) -> None:
        _, answer = await docker_ipam.answer(Recorder(), method, body)
        await docker_ipam.take_back(ipam, method, body, answer)

    ipam = Recorder()
    asyncio.run(lost(ipam))
    assert ipam.asked == taken


@pytest.mark.parametrize("error", [LeaseError("disk full"), RuntimeError("oh")])
def test_taking_back_never_raises(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(asks_address(options=ENDPOINT)).encode()
    method = "IpamDriver.RequestAddress"
    asyncio.run(docker_ipam.take_back(Recorder(error), method, body, {"Address": "10.1.0.11/24"}))
    assert "10.1.0.11/24, whose caller is gone, is not given back" in caplog.text


def test_only_an_address_is_taken_back() -> None:
    ipam = Recorder()
    pool, nothing = json.dumps(asks_pool()).encode(), json.dumps(asks_address(options=ENDPOINT)).encode()
    asyncio.run(docker_ipam.take_back(ipam, "IpamDriver.RequestPool", pool, {"PoolID": POOL}))
    asyncio.run(docker_ipam.take_back(ipam, "IpamDriver.RequestAddress", nothing, {"Err": "no", "Error": "no"}))
    assert ipam.asked == []


TEXTS = st.text() | st.sampled_from(["10.1.0.0/24", "10.1.0.5", "fd00::/64", MAC, *GATEWAY.values(), POOL])
KEYS = st.sampled_from(["Pool", "SubPool", "PoolID", "Address", "Options", "V6", "AddressSpace", *GATEWAY, *ENDPOINT])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, TEXTS))


def holds(method: str, body: bytes) -> None:
    status, answer = ask(method, body=body)
    if status == 200:
        json.dumps(answer)
    else:
        refused(status, answer)


@given(method=st.sampled_from(METHODS) | st.text(), body=st.binary(max_size=300))
def test_any_bytes_are_answered(method: str, body: bytes) -> None:
    holds(method, body)


@given(method=st.sampled_from(METHODS), value=OBJECTS | JSON)
def test_any_json_is_answered(method: str, value: Any) -> None:
    holds(method, json.dumps(value).encode())
