"""The agent's file: what it may say, what is said of it where it is wrong, and what holds for the agent itself."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from arpipam.errors import InputError
from launcher.agent.config import file as config
from launcher.agent.config import keys
from launcher.agent.config.file import Config, MetricsEndpoint, changes, load, parse
from launcher.agent.config.keys import AgentSettings

LAN = IPv4Network("172.16.42.0/24")


def complaint(text: str) -> str:
    with pytest.raises(InputError) as error:
        parse(text, "agent.toml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_not_said_has_its_default() -> None:
    agent = Config().agent
    assert (agent.socket, agent.state_dir) == (Path("/run/docker/plugins/arpipam.sock"), Path("/var/lib/arpipam"))
    assert (agent.metrics, agent.fabric, agent.host, agent.docker, agent.hook) == (None,) * 5
    assert (agent.remember, agent.quarantine, agent.compare) == (86400, 60, 60)
    network = Config().settings(LAN, {})
    assert (network.ready, network.most_ready, network.policy, network.order) == (4, 32, "defend", "first")
    assert (network.timing, network.ranges, network.exclude, network.witnesses) == ("adaptive", (), (), ())
    assert (network.alone, network.miss_probability, network.rate, network.interface) == (False, 1e-6, 5000, None)


def test_all_that_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        """
        [agent]
        socket = "/run/a.sock"
        state_dir = "/srv/arpipam"
        metrics = "[::1]:9475"
        fabric = "/etc/fabric.toml"
        host = "host2"
        docker = "tcp://127.0.0.1:2375"
        hook = "/usr/bin/logger"
        remember = 0
        quarantine = 1.5
        compare = 5

        [network]
        ready = 0
        most_ready = 0
        order = "random"
        timing = "lan"
        exclude = ["172.16.42.9", "172.16.42.16/28"]
        miss_probability = 1e-4
        rate = 100

        [[networks]]
        subnet = "172.16.42.0/24"
        policy = "move"
        range = ["172.16.42.2-172.16.42.99"]
        witness = ["172.16.42.254"]
        alone = true
        interface = "docker0"
        """
    )
    found = load(path)
    agent = found.agent
    assert (agent.socket, agent.state_dir) == (Path("/run/a.sock"), Path("/srv/arpipam"))
    assert (agent.metrics, agent.fabric, agent.host) == (
        MetricsEndpoint("::1", 9475),
        Path("/etc/fabric.toml"),
        "host2",
    )
    assert (agent.docker, agent.hook) == ("tcp://127.0.0.1:2375", Path("/usr/bin/logger"))
    assert (agent.remember, agent.quarantine, agent.compare) == (0, 1.5, 5)
    network = found.settings(LAN, {})
    assert (network.ready, network.most_ready, network.policy, network.order) == (0, 0, "move", "random")
    assert (network.timing, network.ranges) == ("lan", ("172.16.42.2-172.16.42.99",))
    assert network.exclude == ("172.16.42.9", "172.16.42.16/28")
    assert (network.witnesses, network.alone) == ((IPv4Address("172.16.42.254"),), True)
    assert (network.miss_probability, network.rate, network.interface) == (1e-4, 100, "docker0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[agent]\nsocket = 3", "line 2: agent.socket 3: write an absolute path, such as /run/docker/plugins/arpipam"),
        ('[agent]\nsocket = "a.sock"', 'line 2: agent.socket "a.sock": write an absolute path'),
        (f'[agent]\nsocket = "/{"a" * 107}"', "of at most 107 bytes"),
        ('[agent]\nhook = "on-conflict"', 'line 2: agent.hook "on-conflict": write an absolute path, such as /etc/'),
        ('[agent]\nfabric = ""', 'line 2: agent.fabric "": write an absolute path, such as /etc/arpipam/fabric.toml, '),
        ('[agent]\nmetrics = "9475"', 'line 2: agent.metrics "9475": write ADDRESS:PORT, such as 127.0.0.1:9475'),
        ("[agent]\nmetrics = 9475", "line 2: agent.metrics 9475: write ADDRESS:PORT"),
        ('[agent]\ndocker = "/run/docker.sock"', "line 2: agent.docker"),
        ('[agent]\nhost = "a b"', "line 2: agent.host"),
        ("[agent]\nremember = -1", "line 2: agent.remember -1: write seconds, from 0 (off) to 31536000"),
        ("[agent]\nremember = nan", "line 2: agent.remember NaN: write seconds"),
        ("[agent]\nremember = true", "line 2: agent.remember true: write seconds"),
        ('[agent]\nquarantine = "60"', 'line 2: agent.quarantine "60": write seconds, from 0 to 86400'),
        ("[agent]\ncompare = 0", "line 2: agent.compare 0: write seconds, from 1 to 86400"),
        ("[network]\n\nready = 65", "line 3: network.ready 65: write a whole number from 0 to 64"),
        ("[network]\nready = 4.0", "line 2: network.ready 4.0: write a whole number from 0 to 64"),
        ("[network]\nready = true", "line 2: network.ready true: write a whole number"),
        ("[network]\nmost_ready = 257", "line 2: network.most_ready 257: write a whole number from 0 to 256"),
        ('[network]\npolicy = "fight"', 'line 2: network.policy "fight": write defend, report or move'),
        ('[network]\norder = "last"', 'line 2: network.order "last": write first, random or sticky'),
        ('[network]\ntiming = "slow"', 'line 2: network.timing "slow": write adaptive, lan, rfc5227 or guarded'),
        ('[network]\nrange = "10.0.0.1"', 'line 2: network.range "10.0.0.1": write a list of A, A-B or A/length'),
        ('[network]\nrange = [\n"10.0.0.1",\n"x"]', 'line 2: network.range[2] "x": write A, A-B or A/length'),
        ('[network]\nexclude = ["10.0.0.9-10.0.0.1"]', 'network.exclude[1] "10.0.0.9-10.0.0.1": write A, A-B or'),
        ("[network]\nwitness = [1]", "line 2: network.witness[1] 1: write IPv4 addresses"),
        ('[network]\nwitness = ["::1"]', 'line 2: network.witness[1] "::1": write IPv4 addresses, such as 172.16'),
        ("[network]\nalone = 1", "line 2: network.alone 1: write true or false"),
        ("[network]\nmiss_probability = 1", "line 2: network.miss_probability 1: write a number between 0 and 1"),
        ("[network]\nrate = 0", "line 2: network.rate 0: write frames a second, a whole number from 1 to 1000000"),
        ('[network]\ninterface = "a/b"', "line 2: network.interface"),
        ("[network]\nmost_ready = 3", "line 2: network.most_ready: ready 4 is above most_ready 3"),
        ("[network]\nready = 33", "line 2: network.ready: ready 33 is above most_ready 32"),
        ("\n[network]\nsubnet = 1", "line 3: network.subnet: unknown; allowed are alone, exclude, interface, "),
        ("[agent]\nready = 4", "line 2: agent.ready: unknown; allowed are compare, docker, fabric, hook, host, "),
        ("[network]\nranges = []", "line 2: network.ranges: unknown; allowed are"),
        ("[agents]\nhost = 1", "line 1: agents: unknown; allowed are agent, network, networks"),
        ('"a\\nb" = 1', 'line 1: "a\\nb": unknown'),
        ("agent = 3", "line 1: agent 3: write [agent] and its keys below"),
        ("[networks]\nready = 3", 'line 1: networks {"ready": 3}: write [[networks]] and its keys below'),
        ("[[networks]]\nready = 3", "line 1: networks[1].subnet: missing; write an IPv4 network"),
        ('[[networks]]\nsubnet = "10.0.0.1/24"', 'networks[1].subnet "10.0.0.1/24": write an IPv4 network, such as'),
        (
            '[[networks]]\nsubnet = "10.0.0.0/24"\n[[networks]]\nsubnet = "10.0.0.0/24"',
            "line 4: networks[2].subnet: 10.",
        ),
        (
            '[[networks]]\nsubnet = "10.0.0.0/24"\nrange = ["10.0.1.1"]',
            "line 3: networks[1].range: range '10.0.1.1' is ",
        ),
        ('[[networks]]\nsubnet = "10.0.0.0/24"\nexclude = ["10.0.0.0/24"]', "line 3: networks[1].exclude: subnet 10."),
        (
            '[[networks]]\nsubnet = "10.0.0.0/24"\nwitness = ["10.0.1.1"]',
            "line 3: networks[1].witness: 10.0.1.1 is out",
        ),
        (
            '[network]\nrange = ["10.0.1.1"]\n[[networks]]\nsubnet = "10.0.0.0/24"',
            "line 3: networks[1]: range '10.0.1.",
        ),
        (
            '[network]\nready = 6\n[[networks]]\nsubnet = "10.0.0.0/24"\nmost_ready = 5',
            "line 3: networks[1]: ready 6 is",
        ),
        ("[agent\n", "line 1: Expected ']' at the end of a table declaration (column 7)"),
        ("[agent]\nhost = ", "line 2: Invalid value (before the end of the file)"),
        ("[agent]\nhost = 'a'\nhost = 'b'", "line 3: Cannot overwrite a value ("),
        ('[agent]\nhost = """a\n\n[network]\nready = 1\n', "line 2: Unterminated string (before the end of the file)"),
        ('[network]\nready = 1\nrange = [\n"10.0.0.1",\n\n', "line 3: Invalid value (before the end of the file)"),
    ],
)
def test_what_is_wrong_is_said_with_line_key_and_what_is_allowed(text: str, said: str) -> None:
    assert complaint(text).startswith("agent.toml: line ")
    assert said in complaint(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = complaint("[agent]\ncompare = 0\n\n[network]\nrate = 0")
    assert re.fullmatch(r"agent\.toml: line 2: agent\.compare .*; agent\.toml: line 5: network\.rate .*", said)


def test_a_long_value_is_not_repeated_in_full() -> None:
    assert len(complaint(f'[network]\norder = "{"a" * 1000}"')) < 200


def test_windows_lines_count_as_others_do() -> None:
    assert "line 3: network.ready 65" in complaint("[network]\r\n\r\nready = 65\r\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    with pytest.raises(InputError, match=rf"^{path}: No such file or directory; write the file, or .* --config$"):
        load(path)
    with pytest.raises(InputError, match=rf"^{tmp_path}: Is a directory$"):
        load(tmp_path)
    path.write_bytes(b"# fine\n# gr\xfcn\n")
    with pytest.raises(InputError, match=rf"^{path}: line 2: byte 0xfc is not UTF-8$"):
        load(path)


def test_the_usual_file_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.toml"
    monkeypatch.setattr(config, "DEFAULT_CONFIG", path)
    assert load() == Config()
    path.write_text("[network]\nready = 7\n")
    assert load().network.ready == 7


# The agent itself.


def test_where_the_metrics_are() -> None:
    assert MetricsEndpoint.parse("127.0.0.1:9475") == MetricsEndpoint("127.0.0.1", 9475)
    assert str(MetricsEndpoint.parse("[fe80::1]:1")) == "[fe80::1]:1"
    assert str(MetricsEndpoint.parse("0.0.0.0:65535")) == "0.0.0.0:65535"
    for text in ("", "9475", ":9475", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "1.2.3:1", "::1:1"):
        with pytest.raises(InputError, match=r"write ADDRESS:PORT, such as 127\.0\.0\.1:9475"):
            MetricsEndpoint.parse(text)
    for text in ("localhost:1", "[127.0.0.1]:1", "[::1]", "[x:y]:1", "127.0.0.1:1\n", "127.0.0.1:\u0661"):
        with pytest.raises(InputError):
            MetricsEndpoint.parse(text)


def test_the_command_line_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = parse('[agent]\nstate_dir = "/srv"\nquarantine = 5', "agent.toml")
    assert found.override() == found
    said = found.override(socket=Path("a.sock"), metrics="127.0.0.1:1").agent
    assert (said.socket, said.state_dir) == (tmp_path / "a.sock", Path("/srv"))
    assert (said.metrics, said.quarantine) == (MetricsEndpoint("127.0.0.1", 1), 5)
    assert found.override(state_dir=tmp_path).agent.state_dir == tmp_path
    declared = parse('[agent]\nfabric = "none"\nhost = "h1"\nwitness = ["10.0.0.1"]', "agent.toml")
    assert declared.override(witness=(), host=None, fabric=None) == declared
    said = declared.override(fabric=Path("fabric.toml"), host="h2", witness=(IPv4Address("10.0.0.9"),)).agent
    assert (said.fabric_file(), said.host, said.witnesses) == (
        tmp_path / "fabric.toml",
        "h2",
        (IPv4Address("10.0.0.9"),),
    )
    with pytest.raises(InputError, match=r"^--host \.: write the name of a host in the fabric's file$"):
        found.override(host=".")
    with pytest.raises(InputError, match=r"^--metrics x: write ADDRESS:PORT"):
        found.override(metrics="x")
    with pytest.raises(InputError, match=r"^--socket /a+: write an absolute path.* of at most 107 bytes$"):
        found.override(socket=Path("/" + "a" * 107))


def test_the_fabric_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "fabric.toml"
    monkeypatch.setattr(keys, "DEFAULT_FABRIC", usual)
    assert AgentSettings().fabric_file() is None
    usual.touch()
    assert AgentSettings().fabric_file() == usual
    assert parse('[agent]\nfabric = "/other"', "agent.toml").agent.fabric_file() == Path("/other")
    assert parse('[agent]\nfabric = "none"', "agent.toml").agent.fabric_file() is None


def test_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert AgentSettings().docker_host() == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert AgentSettings().docker_host() == "unix:///run/other.sock"
    assert AgentSettings(docker="tcp://h:1").docker_host() == "tcp://h:1"


def test_what_no_reload_changes() -> None:
    old = Config()
    assert changes(old, parse("[agent]\ncompare = 5\n[network]\nready = 1", "agent.toml")) == ()
    assert changes(old, parse('[agent]\nsocket = "/a"', "agent.toml")) == ("agent.socket",)
    both = parse('[agent]\nsocket = "/a"\nstate_dir = "/b"', "agent.toml")
    assert changes(both, old) == ("agent.socket", "agent.state_dir")
