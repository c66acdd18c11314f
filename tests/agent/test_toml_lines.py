"""Where in a TOML text a key stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.agent.config.toml_lines import line_of

DOCUMENT = '''\
# first
title = """
[agent]
ready = 1
"""
agent.host = "a"  # agent.metrics = 1
"quoted key" . 'other' = 1

[network]  # not [other]
ready
= 4
range = [
  "[[networks]]",  # ]
  "b",
]
inline = { a = 1, b = { c = "}" } }

[[networks]]
subnet = "x"
[networks.deep.er]
key = 1

[[networks]]

ready = 2
'''.replace("ready\n= 4", "ready = 4")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("agent",), 6),
        (("agent", "host"), 6),
        (("quoted key", "other"), 7),
        (("network",), 9),
        (("network", "ready"), 10),
        (("network", "range"), 11),
        (("network", "range", 1), 11),
        (("network", "inline", "b", "c"), 15),
        (("networks",), 17),
        (("networks", 0, "subnet"), 18),
        (("networks", 0, "deep"), 19),
        (("networks", 0, "deep", "er", "key"), 20),
        (("networks", 1), 22),
        (("networks", 1, "ready"), 24),
        (("networks", 1, "subnet"), 22),  # not there: where its table starts
        (("networks", 2), 17),
        (("nothing",), None),
    ],
)
def test_the_line_of_a_key(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(DOCUMENT, path) == line


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[tuple[tuple[str | int, ...], int]]]:
    """A document, and where each of its keys was put."""
    lines: list[str] = []
    places: list[tuple[tuple[str | int, ...], int]] = []
    noise = st.sampled_from([[], [""], ["# key = 1"], ["", "  # [table]"]])
    kinds = st.sampled_from(
        ["{} = 1", "  {}.dotted = 1", '"{}" = """\n[x]\nkey = 2"""', "{} = [\n1, # ]\n2,\n]", "'{}' = {{}}"]
    )
    for table in range(draw(st.integers(0, 4))):
        lines += draw(noise)
        array = draw(st.booleans())
        lines.append(f"[[many]] # {table}" if array else f"[table{table}]")
        many = sum(path[0] == "many" and len(path) == 2 for path, _ in places)
        prefix: tuple[str | int, ...] = ("many", many) if array else (f"table{table}",)
        places.append((prefix, len(lines)))
        for key in range(draw(st.integers(0, 4))):
            lines += draw(noise)
            places.append(((*prefix, f"key{key}"), len(lines) + 1))
            lines += draw(kinds).format(f"key{key}").split("\n")
    return "\n".join(lines), places


@given(documents())
def test_the_line_of_each_key_of_any_document(made: tuple[str, list[tuple[tuple[str | int, ...], int]]]) -> None:
    text, places = made
    assert [line_of(text, path) for path, _ in places] == [line for _, line in places]
