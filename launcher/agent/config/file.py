"""The agent's file, `/etc/arpipam/agent.toml`: what it may say, and what holds for a network in the end.

`[agent]` is about the agent itself, `[network]` about all networks, and a `[[networks]]` about the one with its subnet.
What Docker's user gives with --ipam-opt comes last. The more special word replaces the more general one, lists too.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from arpipam.errors import InputError
from arpipam.protocol.pool import Pool
from launcher.agent.config.keys import AgentSettings, DeclaredNetwork, MetricsEndpoint, NetworkSettings, listed
from launcher.agent.config.toml_lines import line_of, unended

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ipaddress import IPv4Network

__all__ = ["Config", "MetricsEndpoint", "NetworkSettings", "changes", "load", "parse"]

DEFAULT_CONFIG = Path("/etc/arpipam/agent.toml")
_SHOWN = 60
"""Characters of a wrong value that an error repeats."""
OPTIONS = ("alone", "exclude", "interface", "order", "policy", "range", "ready", "timing", "witness")
"""The keys of --ipam-opt."""
_LISTS = ("exclude", "range", "witness")
_FIXED = ("socket", "state_dir")
"""Keys of [agent] that hold as long as the agent runs."""


class Config(BaseModel, extra="forbid", frozen=True, strict=True):
    """The whole file."""

    agent: AgentSettings = AgentSettings()
    network: NetworkSettings = NetworkSettings()
    networks: Annotated[tuple[DeclaredNetwork, ...], BeforeValidator(listed)] = ()

    def settings(self, subnet: IPv4Network, options: Mapping[str, str]) -> NetworkSettings:
        """What holds for the network, given Docker's --ipam-opt; raises InputError for an option that is wrong."""
        merged = self._declared(subnet).model_copy(update=_parsed(options))
        for key, text in _misfits(merged, subnet):
            if key in options:
                raise InputError(f"--ipam-opt {key}={_plain(options[key])}: {text}")
            raise InputError(f"network {subnet}: {text}: see {key} in the agent's file")
        return merged

    def override(self, **words: Any) -> Config:
        """The same with what the command line says of keys of [agent]; raises InputError for what is wrong.

        None and () say nothing.
        """
        said = {
            key: value.absolute() if isinstance(value, Path) else value
            for key, value in words.items()
            if value not in {None, ()}
        }
        try:
            valid = AgentSettings.model_validate(said)
        except ValidationError as error:
            detail = error.errors()[0]
            key = str(detail["loc"][0])
            raise InputError(f"--{key.replace('_', '-')} {said[key]}: write {_allowed(AgentSettings, key)}") from None
        return self.model_copy(update={"agent": self.agent.model_copy(update=_said(valid))})

    def _declared(self, subnet: IPv4Network) -> NetworkSettings:
        """What the file says about a network."""
        special = next((network for network in self.networks if network.subnet == subnet), None)
        if special is None:
            return self.network
        return self.network.model_copy(update={key: value for key, value in _said(special).items() if key != "subnet"})

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What does not fit together, and where."""
        if self.network.ready > self.network.most_ready:
            yield ("network", _later(self.network)), _too_many(self.network)
        subnets: list[IPv4Network] = []
        for place, network in enumerate(self.networks):
            if network.subnet in subnets:
                yield ("networks", place, "subnet"), f"{network.subnet} is there twice"
            subnets.append(network.subnet)
            for key, text in _misfits(self._declared(network.subnet), network.subnet):
                said = key in network.model_dump(by_alias=True, exclude_unset=True)
                yield ("networks", place, key) if said else ("networks", place), text


def load(path: Path | None = None) -> Config:
    """Read and validate the file, by default the usual one where there is one.

    Raises InputError, in one line with file, line and key, for what cannot be meant, and for a named file that cannot
    be read.
    """
    source = path or DEFAULT_CONFIG
    try:
        content = source.read_bytes()
    except FileNotFoundError as error:
        if path is None:
            return Config()
        raise InputError(f"{source}: {error.strerror}; write the file, or name another with --config") from None
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}: line {line}: byte {content[error.start]:#04x} is not UTF-8") from None
    return parse(text, str(source))


def parse(text: str, source: str) -> Config:
    """Validate the content of a file, which is called `source` in errors."""
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: {_syntax(text, str(error))}") from None

    def place(where: tuple[str | int, ...], what: str) -> str:
        line = line_of(text, where)
        return f"{source}: {'' if line is None else f'line {line}: '}{_key(where)}{what}"

    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise InputError("; ".join(place(detail["loc"], _complaint(detail)) for detail in error.errors())) from None
    wrong = [place(where, f": {what}") for where, what in config.misfits()]
    if wrong:
        raise InputError("; ".join(wrong))
    return config


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """The keys that differ and that no reload can change, such as `agent.socket`: they hold until a restart."""
    return tuple(f"agent.{key}" for key in _FIXED if getattr(old.agent, key) != getattr(new.agent, key))


# How values come together.


def _said(model: BaseModel) -> dict[str, Any]:
    """What was said, as opposed to left at its default."""
    return {name: getattr(model, name) for name in model.model_fields_set}


def _parsed(options: Mapping[str, str]) -> dict[str, Any]:
    """Docker's options as fields of NetworkSettings; raises InputError."""
    said: dict[str, Any] = {}
    for key, text in options.items():
        if key not in OPTIONS:
            raise InputError(f"--ipam-opt {_plain(key)}: unknown; allowed are {', '.join(OPTIONS)}")
        value: Any = text
        if key in _LISTS:
            value = re.split(r"[,\s]+", text.strip(", \t\n")) if text.strip(", \t\n") else []
        elif key == "ready" and re.fullmatch("[0-9]{1,9}", text):
            value = int(text)
        elif key == "alone":
            value = {"true": True, "false": False}.get(text, text)
        try:
            said.update(_said(NetworkSettings.model_validate({key: value})))
        except ValidationError:
            several = ", several with commas between them" if key in _LISTS else ""
            allowed = f"{_allowed(NetworkSettings, key)}{several}"
            raise InputError(f"--ipam-opt {key}={_plain(text)}: write {allowed}") from None
    return said


def _misfits(settings: NetworkSettings, subnet: IPv4Network) -> Iterator[tuple[str, str]]:
    """What does not fit together for this subnet: keys, and what is the matter with them."""
    if settings.ready > settings.most_ready:
        yield _later(settings), _too_many(settings)
    for key, ranges, exclude in (
        ("range", settings.ranges, ()),
        ("exclude", (), settings.excluded_spans),
        ("exclude", settings.ranges, settings.excluded_spans),
    ):
        try:
            Pool(subnet, ranges=ranges, exclude=exclude)
        except InputError as error:
            yield key, str(error)
            break
    for witness in settings.witnesses:
        if witness not in subnet:
            yield "witness", f"{witness} is outside of {subnet}"


def _later(settings: NetworkSettings) -> str:
    """Which of the two numbers was said, and so is the wrong one."""
    return "ready" if "ready" in settings.model_fields_set else "most_ready"


def _too_many(settings: NetworkSettings) -> str:
    return f"ready {settings.ready} is above most_ready {settings.most_ready}"


# What is wrong, in words.


def _syntax(text: str, message: str) -> str:
    """What tomllib complains of, with the line in front."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if match is None:
        return message
    if match[2] is None:
        return f"line {unended(text)}: {match[1]} (before the end of the file)"
    return f"line {match[2]}: {match[1]} (column {match[3]})"


def _complaint(detail: Any) -> str:
    """One of pydantic's errors: the value, and what is allowed."""
    where, kind = detail["loc"], detail["type"]
    keys = [part for part in where if isinstance(part, str)]
    models: dict[str, type[BaseModel]] = {
        "agent": AgentSettings,
        "network": NetworkSettings,
        "networks": DeclaredNetwork,
    }
    if kind == "extra_forbidden":
        names = list(models)
        if len(keys) > 1:
            names = [field.alias or name for name, field in models[keys[0]].model_fields.items()]
        return f": unknown; allowed are {', '.join(sorted(names))}"
    value = f" {_printable(detail['input'])}"
    if len(keys) == 1:
        return f"{value}: write {f'[[{keys[0]}]]' if keys[0] == 'networks' else f'[{keys[0]}]'} and its keys below"
    allowed = _allowed(models[keys[0]], keys[1])
    if kind == "missing":
        return f": missing; write {allowed}"
    if kind == "tuple_type":
        return f"{value}: write a list of {allowed}"
    return f"{value}: write {allowed}"


def _allowed(model: type[BaseModel], key: str) -> str:
    return next(
        field.description or "" for name, field in model.model_fields.items() if key in {name, field.alias or name}
    )


def _key(where: tuple[str | int, ...]) -> str:
    """As a person writes it, entries of lists counted from 1."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f"{'.' if text else ''}{part if re.fullmatch('[A-Za-z0-9_-]+', part) else _printable(part)}"
    return text


def _printable(value: object) -> str:
    """A value as the file has it; see `_plain`."""
    return _plain(json.dumps(value, default=str, ensure_ascii=False))


def _plain(text: str) -> str:
    """In one line, and not all of what is long."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
