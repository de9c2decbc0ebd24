"""`charlm.load` and `charlm score`, for models of every kind."""

import csv
import io
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import charlm
from charlm import saved_model, score
from charlm.errors import UserError
from charlm.evaluation import loss
from tests.zoo import NAMES, SYMBOLS, build, config

TEXT = "to be, or not to be\nROMEO:\n" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with every model of the zoo, small and fresh, and no params.yaml."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    for name in NAMES:
        model, _ = build(name, len(SYMBOLS))
        saved_model.save(folder / "models" / name, model, config(name, SYMBOLS))
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_below(folder, monkeypatch):
    below = folder / "notebooks"
    below.mkdir(exist_ok=True)
    monkeypatch.chdir(below)


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_evaluation_and_those_of_next(name, folder):
    model = charlm.load(name)
    bits = model.bits(TEXT)
    assert bits.text == TEXT
    ids = torch.tensor([model.vocabulary.symbols.index(s) for s in f"\n{TEXT}"])
    loaded, _ = saved_model.load(folder / "models" / name, torch.device("cpu"))
    nats, _ = loss.streaming(loaded, ids)
    assert np.asarray(bits) == pytest.approx(nats.numpy() / math.log(2))
    assert bits.total == pytest.approx(np.asarray(bits).sum())
    assert bits.per_character == bits.per_byte == bits.total / len(TEXT)
    for place in (0, 1, 5):
        following = model.next(TEXT[:place])
        assert sum(following.values()) == pytest.approx(1)
        assert list(following.values()) == sorted(following.values(), reverse=True)
        assert -math.log2(following[TEXT[place]]) == pytest.approx(bits.each[place], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_continues_the_prompt_and_a_seed_fixes_it(name):
    model = charlm.load(name)
    text = model.sample("ROMEO:", length=30, seed=1)
    assert text.startswith("ROMEO:")
    assert len(text) == 36
    assert text == model.sample("ROMEO:", length=30, seed=1)
    assert len(model.sample(length=3, temperature=0, top_k=2, top_p=0.5)) == 4


def test_it_says_what_it_is():
    symbols = len(SYMBOLS)
    assert repr(charlm.load("bigram")) == (
        f"<bigram: {symbols**2} parameters, {symbols} symbols, context 1 characters>"
    )


def test_a_path_will_do_from_anywhere(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert charlm.load(folder / "models/lstm").name == "lstm"
    with pytest.raises(UserError, match=r"no trained models in .* or above: run `dvc repro`"):
        charlm.load("lstm")


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda: charlm.load("lsm"), "unknown model 'lsm' (did you mean 'lstm'?)"),
        (lambda: charlm.load("lstm", "gpu"), "device: 'cpu' or 'cuda', not 'gpu'"),
        (lambda: charlm.load("lstm").bits("naive"), "symbol 'a' (U+0061) at position 1"),
        (lambda: charlm.load("lstm").next("?"), "symbol '?' (U+003F) at position 0"),
        (lambda: charlm.load("lstm").sample("?"), "symbol '?' (U+003F) at position 0"),
        (lambda: charlm.load("lstm").sample(length=0), "length: "),
        (lambda: charlm.load("lstm").sample(temperature=-1.0), "temperature: "),
    ],
)
def test_a_mistake_is_one_line(use, expected):
    with pytest.raises(UserError) as refused:
        use()
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


def test_no_text_costs_nothing():
    bits = charlm.load("lstm").bits("")
    assert (len(bits), bits.total, bits.per_character) == (0, 0, 0)


def scored(*arguments, text=None):
    return CliRunner().invoke(score.main, [str(each) for each in arguments], input=text)


def test_a_file_is_scored_by_several_models(folder):
    (folder / "poem.txt").write_text(TEXT)
    done = scored(folder / "poem.txt", "--model", "lstm", "--model", "bigram")
    assert done.exit_code == 0
    for line, name in zip(done.stdout.splitlines(), ("lstm", "bigram"), strict=True):
        bits = charlm.load(name).bits(TEXT)
        expected = (
            f"{name} {bits.per_character:.4f} bits per character, {bits.per_byte:.4f} per byte; "
            f"{bits.total:,.0f} bits for 108 characters"
        )
        assert line.split() == expected.split()


def test_lines_are_scored_one_by_one():
    done = scored("-", "--model", "lstm", "--lines", text="to be\n\nor not" + 60 * "t")
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()[1:4]]
    bits = charlm.load("lstm").bits("to be\n\nor not" + 60 * "t").each
    assert rows == [
        [f"{bits[:6].mean():.3f}", "to be"],
        [f"{bits[6]:.3f}"],
        [f"{bits[7:].mean():.3f}", "or not" + 51 * "t" + "..."],
    ]


def test_characters_come_as_csv():
    done = scored("-", "--model", "lstm", "--model", "gpt", "--characters", text='t,\n"')
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: 1 of 4 characters are unknown: '\"' (1); --skip-unknown scores the rest\n"
    )
    options = ("--model", "lstm", "--model", "gpt", "--characters", "--skip-unknown")
    done = scored("-", *options, text='t,\n"e')
    assert done.stderr == "left out: 1 of 5 characters: '\"' (1)\n"
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["line", "character", "lstm", "gpt"]
    assert [row[:2] for row in rows[1:]] == [["1", "t"], ["1", ","], ["1", "\n"], ["2", "e"]]
    assert float(rows[4][2]) == pytest.approx(charlm.load("lstm").bits("t,\ne").each[3], abs=1e-4)


def test_a_carriage_return_is_one_cell(capsys):
    text, each = "a\r\n", np.array([1.0, 2.0, 3.0])
    score.write_characters(text, {"m": charlm.trained_model.Bits(text, each)})
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[1:] == [["1", "a", "1.0000"], ["1", "\r", "2.0000"], ["1", "\n", "3.0000"]]


def test_the_most_frequent_unknown_symbols_are_named():
    done = scored("-", "--model", "lstm", text="xx uvwyzz")
    assert done.stderr == (
        "Error: 8 of 9 characters are unknown: 'x' (2), 'z' (2), 'u' (1), 'v' (1), 'w' (1) and 1 "
        "others; --skip-unknown scores the rest\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        (("nix", "--model", "lstm"), None, "nix: no such file"),
        ((".", "--model", "lstm"), None, "Is a directory: ."),
        (("-", "--model", "lsm"), "to", "unknown model 'lsm' (did you mean 'lstm'?)"),
        (("-", "--model", "lstm"), "", "-: nothing to score: no text"),
        (("-", "--model", "lstm"), b"\xff", "-: is not UTF-8 (byte 0)"),
        (("-", "--model", "lstm", "--lines", "--characters"), "t", "--lines and --characters: "),
    ],
)
def test_a_mistake_at_the_command_is_one_line(arguments, text, expected):
    done = scored(*arguments, text=text)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {expected}")
    assert done.stderr.count("\n") == 1


def test_scoring_needs_the_model_alone(folder, monkeypatch, tmp_path):
    """Copied to where nothing else is."""
    shutil.copytree(folder / "models/lstm", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert scored("-", "--model", "./mine", text="to be").exit_code == 0
