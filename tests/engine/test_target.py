"""Which engine is meant: the docker command's own rules, tried beside the docker commands of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import InputError
from arpipam.lab import CLIENTS
from launcher.engine.target import DEFAULT_URL, Target, Tls, chosen

if TYPE_CHECKING:
    from pathlib import Path

FAR = "tcp://far.example:2376"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """docker's folder, with the context `far`, which has TLS files, and `near`, which has none."""
    add(tmp_path, "far", Host=FAR, SkipTLSVerify=False)
    tls = tmp_path / "contexts/tls" / digest("far") / "docker"
    tls.mkdir(parents=True)
    for name in ("ca", "cert", "key"):
        (tls / f"{name}.pem").touch()
    add(tmp_path, "near", Host="unix:///run/near.sock")
    return tmp_path


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def add(folder: Path, name: str, **endpoint: Any) -> Path:
    meta = folder / "contexts/meta" / digest(name)
    meta.mkdir(parents=True)
    said = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (meta / "meta.json").write_text(json.dumps(said))
    return meta / "meta.json"


def use(folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))


def said(folder: Path, host: str | None = None, context: str | None = None, **env: str) -> Target:
    return chosen(host, context, env | {"DOCKER_CONFIG": str(folder)})


@pytest.mark.parametrize(
    ("current", "words", "env", "url"),
    [
        ("", {}, {}, DEFAULT_URL),
        ("near", {}, {}, "unix:///run/near.sock"),
        ("default", {}, {}, DEFAULT_URL),
        ("near", {}, {"DOCKER_CONTEXT": "far"}, FAR),
        ("near", {}, {"DOCKER_CONTEXT": "default"}, DEFAULT_URL),
        ("near", {}, {"DOCKER_HOST": "unix:///run/x.sock", "DOCKER_CONTEXT": "far"}, "unix:///run/x.sock"),
        ("near", {"context": "far"}, {"DOCKER_HOST": "unix:///run/x.sock"}, FAR),
        ("near", {"context": "default"}, {"DOCKER_HOST": "unix:///run/x.sock"}, "unix:///run/x.sock"),
        ("near", {"host": "unix:///run/y.sock"}, {"DOCKER_HOST": "unix:///run/x.sock"}, "unix:///run/y.sock"),
        ("near", {"host": "unix:///run/y.sock"}, {"DOCKER_CONTEXT": "far"}, "unix:///run/y.sock"),
        ("", {}, {"DOCKER_HOST": "far.example:2375"}, "tcp://far.example:2375"),
        ("", {}, {"DOCKER_HOST": "", "DOCKER_CONTEXT": ""}, DEFAULT_URL),
    ],
)
def test_the_order_is_dockers(current: str, words: dict[str, str], env: dict[str, str], url: str, folder: Path) -> None:
    if current:
        use(folder, current)
    assert said(folder, **words, **env).url == url


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("current", "words", "env"),
    [
        ("near", [], {}),
        ("near", [], {"DOCKER_CONTEXT": "far2"}),
        ("near", [], {"DOCKER_HOST": "unix:///run/x.sock", "DOCKER_CONTEXT": "far2"}),
        ("near", ["--context", "far2"], {"DOCKER_HOST": "unix:///run/x.sock"}),
        ("near", ["-H", "unix:///run/y.sock"], {"DOCKER_CONTEXT": "far2"}),
        ("", [], {"DOCKER_CONTEXT": "far2"}),  # and no config.json
    ],
)
def test_docker_itself_goes_to_the_same_engine(
    client: str, current: str, words: list[str], env: dict[str, str], folder: Path
) -> None:
    """Its complaint names the engine that it cannot reach."""
    add(folder, "far2", Host="unix:///run/far2.sock")
    if current:
        use(folder, current)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    done = subprocess.run(
        [client, *words, "ps"],
        env=clean | env | {"DOCKER_CONFIG": str(folder)},
        text=True,
        capture_output=True,
        check=False,
    )
    options = dict(zip(["host" if word == "-H" else "context" for word in words[::2]], words[1::2], strict=True))
    assert said(folder, **options, **env).url in done.stderr


def test_a_context_has_its_own_tls(folder: Path) -> None:
    tls = folder / "contexts/tls" / digest("far") / "docker"
    target = said(folder, context="far", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH="/elsewhere")
    assert target == Target(FAR, Tls(f"{tls}/ca.pem", f"{tls}/cert.pem", f"{tls}/key.pem", verify=True), "far")
    assert said(folder, context="near").tls is None
    (tls / "cert.pem").unlink()
    assert said(folder, context="far").tls == Tls(f"{tls}/ca.pem", "", f"{tls}/key.pem", verify=True)
    add(folder, "unchecked", Host=FAR, SkipTLSVerify=True)
    assert said(folder, context="unchecked").tls == Tls(verify=False)


def test_the_environments_tls_is_dockers(folder: Path) -> None:
    (folder / "ca.pem").touch()
    assert said(folder, FAR).tls is None
    assert said(folder, FAR, DOCKER_CERT_PATH="/certs").tls is None  # docker wants to be told that it is for use
    assert said(folder, FAR, DOCKER_TLS_VERIFY="1").tls == Tls(f"{folder}/ca.pem", verify=True)
    assert said(folder, FAR, DOCKER_TLS="1").tls == Tls(f"{folder}/ca.pem", verify=False)


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"Endpoints": null}', '{"Endpoints": {"docker": {"Host": 7}}}'])
def test_a_context_that_is_none_is_one_line(text: str, folder: Path) -> None:
    add(folder, "broken").write_text(text)
    with pytest.raises(InputError, match="docker context 'broken': ") as refused:
        said(folder, context="broken")
    assert "\n" not in str(refused.value)


def test_a_user_without_a_home_has_the_usual_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", none)
    assert chosen(environment={}).url == DEFAULT_URL


def test_what_cannot_be_meant_is_one_line(folder: Path) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        said(folder, "unix:///run/x.sock", "far")
    use(folder, "gone")
    with pytest.raises(InputError, match=r"docker context 'gone' is not there .* docker context ls"):
        said(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"currentContext": 7}', '{"currentContext": ""}', "{}"])
def test_a_wrong_config_names_no_context(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    assert said(folder).url == DEFAULT_URL
