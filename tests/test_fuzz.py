"""params.yaml as nobody should write it: accepted, or refused in one line that names the file."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from charlm import params
from charlm.errors import UserError
from tests.workspace import PROJECT

TEXT = (PROJECT / "params.yaml").read_text()
CONTENT = YAML(typ="safe", pure=True).load(TEXT)
DEEP: Any = 1
for _ in range(300):
    DEEP = [DEEP]
VALUES = [
    *(None, True, False, -1, 0, 1, 2**63, 10**40, -1e-9, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "null",
        "1",
        "x" * 5000,
        "naïve \u202e \U0001f600",
        "a\nb",
        "\0",
        "../../etc/passwd",
    ),
    *([], [1], ["a", "b"], [[]], {}, {"a": 1}, {"steps": 3}, {1: 2}, {None: None}, DEEP),
]
KEYS = ["steps", "stesp", "", "x" * 500, "a\nb", "ключ", 1, None, True, 1.5, "../x", "scale"]


def paths(mapping: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value."""
    found = []
    items = mapping.items() if isinstance(mapping, dict) else enumerate(mapping)
    for key, value in items:
        found.append((*prefix, key))
        if isinstance(value, dict | list):
            found += paths(value, (*prefix, key))
    return found


def refusal(read: Callable[..., Any], *arguments: Any) -> str:
    """Return why something was refused; "" if it was not."""
    try:
        read(*arguments)
    except UserError as error:
        return str(error)
    return ""


PATHS = paths(CONTENT)


@settings(max_examples=150)
@given(st.data())
def test_mutations_are_accepted_or_refused_in_one_line(data):
    mutate(data)


@pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture` runs it")
@settings(max_examples=3000)
@given(st.data())
def test_thousands_of_mutations(data):
    mutate(data)


def mutate(data: st.DataObject) -> None:
    """Change up to three things and check the whole."""
    content = copy.deepcopy(CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(PATHS))
        inner = content
        try:
            for key in parents:
                inner = inner[key]
            action = data.draw(st.sampled_from(["drop", "replace", "add", "rename"]))
            value = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
            if action == "drop":
                del inner[last]
            elif action == "replace":
                inner[last] = value
            elif action == "rename":
                inner[data.draw(st.sampled_from(KEYS))] = inner.pop(last)
            else:
                inner[data.draw(st.sampled_from(KEYS))] = value
        except (KeyError, IndexError, TypeError):
            # A change before this one took the place away.
            continue
    said = refusal(params.parse, content, "params.yaml")
    assert "\n" not in said
    assert not said or said.startswith("params.yaml: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "null",
        "[]",
        "5",
        "models",
        "{",
        "a: b: c",
        "\t- x",
        "a: &x [*x]",
        "&a [*a, *a]",
        "scale: quick\nscale: full\n",
        "? [1, 2]\n: 3\n",
        "!!python/object/apply:os.system ['true']",
        "a: !unknown 1",
        "%YAML 9.9\n---\n{}",
        "---\n{}\n---\n{}",
        "[" * 3000,
        "a: " * 500 + "1",
        "\ufeff" + TEXT,
        TEXT.replace("models:", "models: &m", 1) + "\nmore: *m\n",
        TEXT.replace("steps: 10,", "steps: 1_0,"),
        TEXT.replace("lstm:", "lstm :").replace("\n", "\r\n"),
    ],
)
def test_any_text_is_accepted_or_refused_in_one_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    said = refusal(params.load, path)
    assert "\n" not in said
    assert not said or str(path) in said


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x80", b"\0\0\0", b"scale: \x07"])
def test_any_bytes_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert re.fullmatch(re.escape(str(path)) + "[^\n]+", refusal(params.load, path))
