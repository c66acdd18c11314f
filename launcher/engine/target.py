"""Which engine is meant, as the docker command finds it: by -H, --context, DOCKER_HOST, DOCKER_CONTEXT or config.json.

docker-py's own reading of contexts looks in the working directory where there is no config.json, and takes TLS files
only all together; so the two small files are read here, and docker-py is not loaded for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "unix:///var/run/docker.sock"
DEFAULT_CONTEXT = "default"
"""The context of those who have none."""


@dataclass(frozen=True)
class Tls:
    """How to talk TLS with an engine; paths of PEM files, empty where there is none."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


@dataclass(frozen=True)
class Target:
    """One engine."""

    url: str
    tls: Tls | None = None
    context: str = ""
    """The context that led to it; empty where none did."""


USUAL = Target(DEFAULT_URL)
"""The engine of this host."""


def chosen(host: str | None = None, context: str | None = None, environment: Mapping[str, str] | None = None) -> Target:
    """The engine that the docker command would talk to, given its -H and --context.

    Raises InputError where both are given, and for a context that is not there or cannot be read.
    """
    env = os.environ if environment is None else environment
    folder = Path(env["DOCKER_CONFIG"]) if env.get("DOCKER_CONFIG") else _home() / ".docker"
    if host and context:
        raise InputError(f"-H {host} and --context {context} exclude each other: leave one out")
    if not host and not context and not (host := env.get("DOCKER_HOST")):
        context = env.get("DOCKER_CONTEXT") or _current(folder)
    if host or context in {None, DEFAULT_CONTEXT}:
        url = host or env.get("DOCKER_HOST") or DEFAULT_URL
        return Target(url if "://" in url else f"tcp://{url}", _tls(env, folder))
    return _of_context(str(context), folder)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user whom this system does not know
        return Path("/")


def _tls(env: Mapping[str, str], folder: Path) -> Tls | None:
    """As the environment says, for an engine that no context leads to."""
    verify = bool(env.get("DOCKER_TLS_VERIFY"))
    if not verify and not env.get("DOCKER_TLS"):
        return None
    return _files(Path(env.get("DOCKER_CERT_PATH") or folder), verify=verify)


def _current(folder: Path) -> str | None:
    """The context that `docker context use` has set."""
    try:
        said = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):  # docker warns of a wrong file, and goes on without it
        return None
    name = said.get("currentContext") if isinstance(said, dict) else None
    return name if isinstance(name, str) and name else None


def _of_context(name: str, folder: Path) -> Target:
    number = hashlib.sha256(os.fsencode(name)).hexdigest()
    file = folder / "contexts" / "meta" / number / "meta.json"
    try:
        said: Any = json.loads(file.read_bytes())
        endpoint = said["Endpoints"]["docker"]
        url, unchecked = endpoint.get("Host") or DEFAULT_URL, bool(endpoint.get("SkipTLSVerify"))
        if not isinstance(url, str):
            raise TypeError(url)  # noqa: TRY301 - one answer for all that is wrong in it
    except FileNotFoundError:
        raise InputError(f"docker context {name!r} is not there ({file.parent}); see docker context ls") from None
    except OSError as error:
        raise InputError(f"docker context {name!r}: {file}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError):
        raise InputError(f"docker context {name!r}: {file} is not a context of docker's; make it anew") from None
    tls = _files(folder / "contexts" / "tls" / number / "docker", verify=not unchecked)
    there = tls.ca or tls.cert or unchecked
    return Target(url, tls if there else None, name)


def _files(folder: Path, *, verify: bool) -> Tls:
    ca, cert, key = (str(path) if (path := folder / f"{name}.pem").is_file() else "" for name in ("ca", "cert", "key"))
    return Tls(ca, cert, key, verify)
