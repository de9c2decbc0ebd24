"""What nobody should write, in params.yaml or to draw text: accepted, or refused in one line."""

import copy
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from charlm import saved_model
from charlm.check import check_own_text
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import corpus, encoding
from charlm.errors import UserError
from stages import sample
from tests.workspace import PROJECT, encode_text
from tests.zoo import config

TEXT = (PROJECT / "params.yaml").read_text()
LOADED = params.load(PROJECT / "params.yaml")
CONTENT = YAML(typ="safe").load(TEXT)
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


HUGE = ["10000000", "1000000000000", "9223372036854775808", "1" + "0" * 30, "-1" + "0" * 30]
ODD = st.sampled_from([*HUGE, "nan", "inf", "-inf", "1e400", "x", "", "\u0663", "block", "0x3"])
WHOLE = st.integers(-2, 40).map(str) | st.integers(1, 8).map(str) | ODD
REAL = st.floats(-0.1, 3).map(str) | st.floats().map(str) | ODD
OPTIONS = {
    "prompt": st.text(st.characters(exclude_categories=()), max_size=30)
    | st.text("abn \n", min_size=1, max_size=3000)
    | st.sampled_from(["\0", "\ud800", "\U0001f600", "\u202eab", "a" * 10**5]),
    **dict.fromkeys(("length", "samples", "seed", "top-k", "context"), WHOLE),
    **dict.fromkeys(("temperature", "top-p"), REAL),
}
ASKED = st.lists(st.sampled_from(list(OPTIONS)), min_size=1, max_size=3, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: OPTIONS[key] for key in keys})
)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A folder with a model of five symbols."""
    folder = tmp_path_factory.mktemp("writer")
    saved = config("bigram", "\n abn")
    saved_model.save(folder / "models/bigram", saved.build(), saved)
    return folder


def ask(folder: Path, *arguments: str) -> Result:
    """Run stages.sample in a folder; params.yaml, which does not change, is read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(params, "load", lambda: LOADED)
        return CliRunner().invoke(sample.main, ["--model=bigram", *arguments])


@settings(max_examples=150)
@given(ASKED)
def test_any_prompt_and_settings_draw_text_or_are_refused_in_one_line(writer, asked):
    drawn_or_refused(writer, asked)


@pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture` runs it")
@settings(max_examples=3000)
@given(ASKED)
def test_thousands_of_prompts_and_settings(writer, asked):
    drawn_or_refused(writer, asked)


def drawn_or_refused(writer: Path, asked: dict[str, str]) -> None:
    """Draw as given; what comes has the prompt, the length and the number that were asked for."""
    given = {"prompt": "ban", "length": "5", "samples": "1", **asked}
    done = ask(writer, *(f"--{k}={v}" for k, v in given.items()))
    if done.exit_code:
        assert isinstance(done.exception, SystemExit), given
        assert done.stdout == ""
        (said,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
        assert done.exit_code == 2 or done.stderr == f"{said}\n"
        return
    samples, length = int(given["samples"]), len(given["prompt"]) + int(given["length"])
    headings = sum(len(f"=== sample {n} of {samples} ===\n\n\n") for n in range(1, samples + 1))
    assert len(done.stdout) == (samples * length + headings - 1 if samples > 1 else length + 1)
    assert given["prompt"] in done.stdout
    assert set(given["prompt"]) <= set("\n abn")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "--prompt " + "ban" * 4_000_000,
            "sampling: prompt, length (1,000) and samples (1) make 12,",
        ),
        ("--length 1000000000000", "--length: input should be less than or equal to 1000000, not "),
        ("--samples 1000000000", "--samples: input should be less than or equal to 1000, not "),
        (
            "--length 1000000 --samples 11",
            "sampling: prompt, length (1,000,000) and samples (11) make 11,",
        ),
        ("--temperature nan", "--temperature: input should be a finite number, not nan"),
        ("--top-p inf", "--top-p: input should be a finite number, not inf"),
        ("--seed -1", "--seed: input should be greater than or equal to 0, not -1"),
        ("--context 10000001", "--context: must be a positive number up to 10,000,000, block or "),
    ],
)
def test_what_no_memory_holds_is_refused_with_the_numbers(writer, given, expected):
    done = ask(writer, *given.split())
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {expected}")


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (lambda: torch.empty(10**14), "no memory for 400,000,000,000,000 bytes at once: choose s"),
        (lambda: torch.empty(10**10, 10**10), "no memory: choose smaller sizes"),
        (lambda: [0] * 10**17, "no memory: choose smaller sizes"),
        (lambda: [0] * 10**30, "no memory: choose smaller sizes"),
    ],
)
def test_a_lack_of_memory_is_one_line(demand, expected):
    done = CliRunner().invoke(click.command()(one_line_errors(demand)), [])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {expected}")


@pytest.mark.parametrize("kind", [RuntimeError, RecursionError, OverflowError, KeyError])
def test_a_fault_of_our_own_is_not_taken_for_a_lack_of_memory(kind):
    def fault():
        raise kind("mat1 and mat2 shapes cannot be multiplied")

    done = CliRunner().invoke(click.command()(one_line_errors(fault)), [])
    assert isinstance(done.exception, kind)


TEXTS = {
    "one character": "x",
    "one symbol, repeated": "x" * 3000,
    "two symbols": "xy" * 40,
    "NUL": "to\0be" * 500,
    "a mark of byte order": "\ufeffto be " * 400,
    "combining marks": "e\u0301o\u0308\u0323 n\u0303" * 400,
    "emoji, joined": "\U0001f469\u200d\U0001f467 \U0001f1ea\U0001f1fa!" * 400,
    "right to left": "\u0634\u0639\u0631 \u202e\u05e9\u05d9\u05e8\u202c\n" * 400,
    "line endings": "a\r\nb\rc\n\u2028\x85\x0b\x0c" * 400,
    "a megabyte on one line": "to be or not " * 80_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_any_text_is_kept_to_the_last_character_or_too_short(tmp_path, text):
    path = tmp_path / "own"
    path.write_bytes(text.encode())
    corpus.fetch(tmp_path / "corpus.txt", str(path), [], None, None, tmp_path)
    said = refusal(check_own_text, LOADED, path)
    assert bool(said) == (len(text) < 2000)
    assert not said or "characters, but" in said
    splits = encode_text(text, tmp_path)
    symbols = "".join(sorted(set(text)))
    assert "".join(symbols[place] for ids in splits.values() for place in ids) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"to be\xff", "is not UTF-8: byte 0xff at offset 5"),
        (b"to be\xe2\x82", "is not UTF-8: byte 0xe2 at offset 5"),
        (b"\xff\xfet\0o\0", "is not UTF-8: byte 0xff at offset 0"),
        (bytes(range(256)) * 9, "is not UTF-8: byte 0x80 at offset 128"),
        (b"\xed\xa0\x80", "is not UTF-8: byte 0xed at offset 0"),
        ("".join(map(chr, range(0xD7FF))).encode() * 2 + "\U00010000".encode() * 9, ""),
        ("".join(map(chr, range(0xE000, 0x1F800))).encode(), "different symbols (at most 65,536)"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, expected):
    path = tmp_path / "own"
    path.write_bytes(content)
    said = refusal(encoding.scan, path)
    assert expected in said
    assert bool(said) == bool(expected)
    assert "\n" not in said


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("fifo", ".", "missing", "loop", "x" * 300, "/dev/zero", "/dev/stdin", "/dev/full"):
        said = refusal(corpus.fetch, tmp_path / "c", str(tmp_path / path), [], None, None, tmp_path)
        assert re.fullmatch(r"corpus\.path in params\.yaml: [^\n]+", said), path
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("closed", ["closed", "closed/own"])
def test_a_file_that_nobody_may_read_is_named(closed):
    """Permissions do not bind root, who is somebody else for a moment."""
    with tempfile.TemporaryDirectory() as name:
        own = Path(name) / "closed/own"
        own.parent.mkdir()
        own.write_text("to be")
        Path(name).chmod(0o777)
        (Path(name) / closed).chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            said = refusal(corpus.fetch, Path(name) / "c", str(own), [], None, None, own.parent)
        finally:
            if root:
                os.seteuid(0)
            own.parent.chmod(0o777)
    assert said == f"corpus.path in params.yaml: {own}: cannot be read (Permission denied)"
