"""What other programs send to the agent's own API, checked. Raises InputError, in one line, that says which key."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from arpipam.errors import InputError
from arpipam.leases.lease import QUARANTINE
from arpipam.protocol import arp
from launcher.agent.contract import ClaimRequest

_LONGEST = 255
_LONGEST_QUARANTINE = 86400.0
_SHOWN = 80


def _address(text: str) -> str:
    return str(IPv4Address(text))


def _subnet(text: str) -> str:
    return str(IPv4Network(text))


def _mac(text: str) -> str:
    return arp.mac_text(arp.mac_bytes(text))


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
_Line = Annotated[str, Field(min_length=1, max_length=_LONGEST, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Range = Annotated[str, Field(pattern=r"^[0-9./ -]{1,40}$")]
_Ranges = Annotated[tuple[_Range, ...], Field(max_length=1024)]
_Address = Annotated[str, AfterValidator(_address)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)  # a word that is not understood could be an important one


class _ClaimRequest(_Strict):
    interface: _Name
    owner: _Line
    subnet: Annotated[str, AfterValidator(_subnet)] | None = None
    address: _Address | None = None
    mac: Annotated[str, AfterValidator(_mac)] | None = None
    exclude: _Ranges = ()
    ranges: _Ranges = ()
    witnesses: Annotated[tuple[_Address, ...], Field(max_length=256)] = ()
    order: Literal["first", "random", "sticky"] | None = None
    timing: Literal["adaptive", "lan", "rfc5227", "guarded"] | None = None
    alone: bool = False
    miss_probability: Annotated[float, Field(gt=0, lt=1)] | None = None


class _Bind(_Strict):
    container: _Line


class _Release(_Strict):
    quarantine: Annotated[float, Field(ge=0, le=_LONGEST_QUARANTINE, allow_inf_nan=False)] = QUARANTINE


class _Nothing(_Strict):
    pass


_Model = TypeVar("_Model", bound=_Strict)


def claim_request(body: bytes) -> ClaimRequest:
    """A claim's."""
    return ClaimRequest(**_read(_ClaimRequest, body).model_dump())


def container(body: bytes) -> str:
    """The container of a bind."""
    return _read(_Bind, body).container


def quarantine(body: bytes) -> float:
    """Seconds for which a released address is given to nobody else."""
    return _read(_Release, body).quarantine


def nothing(body: bytes) -> None:
    """An empty object."""
    _read(_Nothing, body)


def _read(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise InputError("; ".join(_line(detail) for detail in error.errors(include_url=False)[:3])) from None


def _line(detail: Any) -> str:
    """One of pydantic's errors: where, what, and what is wrong with it."""
    key = ".".join(str(part)[:_SHOWN] for part in detail["loc"])
    text = str(detail["msg"]).removeprefix("Value error, ")
    if not key:
        return f"the request's body: {text}"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; is the agent older than the program that asks it?"
    shown = repr(detail["input"])[:_SHOWN] if detail["type"] not in {"missing", "value_error"} else ""
    return f"{key} {shown}: {text}" if shown else f"{key}: {text}"
