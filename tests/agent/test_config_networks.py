"""What holds for a network in the end, by the agent's file and Docker's options."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import InputError
from launcher.agent.config import file as config
from launcher.agent.config.file import Config, NetworkSettings, parse

LAN = IPv4Network("172.16.42.0/24")


def option(key: str, value: str, text: str = "") -> NetworkSettings:
    return parse(text, "agent.toml").settings(LAN, {key: value})


def refusal(key: str, value: str, text: str = "") -> str:
    with pytest.raises(InputError) as error:
        option(key, value, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_more_special_word_replaces_the_more_general_one() -> None:
    found = parse(
        """
        [network]
        ready = 1
        order = "random"
        exclude = ["172.16.42.9"]
        [[networks]]
        subnet = "172.16.42.0/24"
        ready = 2
        exclude = ["172.16.42.7"]
        [[networks]]
        subnet = "10.0.0.0/8"
        exclude = []
        """,
        "agent.toml",
    )
    lan = found.settings(LAN, {})
    assert (lan.ready, lan.order, lan.exclude, lan.policy) == (2, "random", ("172.16.42.7",), "defend")
    assert found.settings(LAN, {"ready": "3"}).ready == 3
    assert found.settings(IPv4Network("10.0.0.0/8"), {}).exclude == ()
    other = found.settings(IPv4Network("172.16.42.0/25"), {})
    assert (other.ready, other.exclude) == (1, ("172.16.42.9",))
    assert found.settings(LAN, {"policy": "defend"}) == lan  # the same, wherever it was said
    assert type(lan) is NetworkSettings


def test_docker_s_options() -> None:
    assert option("range", "172.16.42.2-172.16.42.9,172.16.42.64/28").ranges == (
        "172.16.42.2-172.16.42.9",
        "172.16.42.64/28",
    )
    assert option("exclude", "172.16.42.2  172.16.42.3, 172.16.42.4,").exclude == (
        "172.16.42.2",
        "172.16.42.3",
        "172.16.42.4",
    )
    assert option("exclude", "", '[network]\nexclude = ["172.16.42.9"]').exclude == ()
    assert option("witness", "172.16.42.254").witnesses == (IPv4Address("172.16.42.254"),)
    assert (option("order", "sticky").order, option("timing", "rfc5227").timing) == ("sticky", "rfc5227")
    assert (option("interface", "br0").interface, option("policy", "move").policy) == ("br0", "move")
    assert (option("ready", "0").ready, option("alone", "true").alone) == (0, True)
    assert option("alone", "false", "[network]\nalone = true").alone is False


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rang", "x", "--ipam-opt rang: unknown; allowed are alone, exclude, interface, order, policy, range, ready, "),
        ("rate", "1", "--ipam-opt rate: unknown"),
        ("ranges", "172.16.42.2", "--ipam-opt ranges: unknown"),
        ("a\nb", "1", "--ipam-opt a\\nb: unknown"),
        ("ready", "65", "--ipam-opt ready=65: write a whole number from 0 to 64"),
        ("ready", "-1", "--ipam-opt ready=-1: write a whole number from 0 to 64"),
        ("ready", "many", "--ipam-opt ready=many: write a whole number from 0 to 64"),
        ("ready", "9" * 5000, "write a whole number from 0 to 64"),
        ("ready", "33", "--ipam-opt ready=33: ready 33 is above most_ready 32"),
        ("policy", "fight", "--ipam-opt policy=fight: write defend, report or move"),
        ("order", "", "--ipam-opt order=: write first, random or sticky"),
        ("timing", "slow", "--ipam-opt timing=slow: write adaptive, lan, rfc5227 or guarded"),
        ("alone", "yes", "--ipam-opt alone=yes: write true or false"),
        ("interface", "a b\n", "--ipam-opt interface=a b\\n: write the name of an interface"),
        (
            "range",
            "x",
            "--ipam-opt range=x: write A, A-B or A/length, such as 172.16.42.100-172.16.42.200, several with",
        ),
        ("range", "10.0.0.1", "--ipam-opt range=10.0.0.1: range '10.0.0.1' is not inside of 172.16.42.0/24"),
        (
            "exclude",
            "172.16.42.0/24",
            "--ipam-opt exclude=172.16.42.0/24: subnet 172.16.42.0/24: ranges and exclusions",
        ),
        ("witness", "gateway", "--ipam-opt witness=gateway: write IPv4 addresses, such as 172.16.42.254, several with"),
        ("witness", "10.0.0.1", "--ipam-opt witness=10.0.0.1: 10.0.0.1 is outside of 172.16.42.0/24"),
    ],
)
def test_a_bad_option_is_named_with_what_is_allowed(key: str, value: str, said: str) -> None:
    assert said in refusal(key, value)


def test_the_file_is_named_where_what_it_says_for_all_networks_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"^network 172.16.42.0/24: range '10.*: see range in the agent's file$"):
        option("ready", "1", '[network]\nrange = ["10.0.0.1"]')


@given(st.dictionaries(st.sampled_from([*config.OPTIONS, "other"]), st.text(max_size=30), max_size=4))
def test_no_option_does_more_harm_than_one_line(options: dict[str, str]) -> None:
    try:
        found = Config().settings(LAN, options)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - it need not be raised
    else:
        NetworkSettings.model_validate(found.model_dump(by_alias=True))
