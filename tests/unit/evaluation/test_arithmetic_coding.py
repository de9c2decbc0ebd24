import contextlib
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from charlm import saved_model
from charlm.config.params import Dynamic
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.evaluation import arithmetic_coding, compress, dynamic
from tests.workspace import PROJECT
from tests.zoo import SMOKE, build, config

LETTERS = Vocabulary("abcdefg")
WEIGHTS = "0123456789abcdef"


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=300))
def test_frequencies_are_positive_and_sum_to_two_to_the_24(logits):
    found = arithmetic_coding.frequencies(torch.tensor(logits))
    assert (found >= 1).all()
    assert found.sum() == 1 << arithmetic_coding.PRECISION
    p = torch.softmax(torch.tensor(logits).double(), -1).numpy()
    assert found / (1 << arithmetic_coding.PRECISION) == pytest.approx(p, abs=len(p) / (1 << 23))


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.lists(st.floats(-30, 30), min_size=7, max_size=7)),
        max_size=200,
    )
)
def test_symbols_come_back_and_take_the_bits_of_their_probabilities(steps):
    """Any symbol under any distribution, so that carries run through many bytes too."""
    sizes = [arithmetic_coding.frequencies(torch.tensor(logits)) for _, logits in steps]
    coder = arithmetic_coding.Encoder()
    for (symbol, _), of in zip(steps, sizes, strict=True):
        coder.put(int(of[:symbol].sum()), int(of[symbol]))
    content = coder.end()
    decoder = arithmetic_coding.Decoder(content)
    assert [decoder.get(of) for of in sizes] == [symbol for symbol, _ in steps]
    bits = -sum(
        math.log2(of[symbol] / (1 << arithmetic_coding.PRECISION))
        for (symbol, _), of in zip(steps, sizes, strict=True)
    )
    assert bits - 1 <= 8 * len(content) <= bits + 9


def test_a_carry_runs_through_bytes_of_ones():
    coder = arithmetic_coding.Encoder()
    coder._bytes += b"\x01\xff\xff"
    coder._low = arithmetic_coding.TOP + 5
    coder._carry()
    assert (bytes(coder._bytes), coder._low) == (b"\x02\x00\x00", 5)


@pytest.mark.parametrize("name", SMOKE.ranked)
@pytest.mark.parametrize("text", ["", "a"])
def test_every_model_compresses_next_to_nothing(name, text):
    """Longer texts are those of test_proofs.py."""
    model, _ = build(name, 7)
    content = arithmetic_coding.compress(model, LETTERS.encode(text).tolist(), 3, LETTERS, WEIGHTS)
    assert arithmetic_coding.length(content) == len(text)
    assert arithmetic_coding.restore(model, content, LETTERS, WEIGHTS) == text


@pytest.mark.parametrize("rate", [0.0, 0.05])
@pytest.mark.parametrize("name", ["lstm", "mixture"])
def test_a_model_that_learns_compresses_to_its_adaptive_loss(name, rate):
    """The decoder learns what the coder learned; who has learned already reads another text."""
    past, text = LETTERS.encode("gfedcba" * 9).tolist(), "abacabadabacabae" * 12
    how = Dynamic(
        every=5,
        learning_rate=0.01,
        epsilon=1e-3,
        decay=0.01,
        statistics=40,
        recount=20,
        context_rate=rate,
    )
    lessons, ids = arithmetic_coding.Lessons(past, how), LETTERS.encode(text).tolist()

    def fresh():
        torch.manual_seed(5)
        return build(name, 7)[0]

    model = fresh()
    content = arithmetic_coding.compress(model, ids, past[-1], LETTERS, WEIGHTS, lessons=lessons)
    assert arithmetic_coding.restore(fresh(), content, LETTERS, WEIGHTS, lessons=lessons) == text
    symbols = LETTERS.symbols
    nats, _ = dynamic.scores(fresh(), torch.tensor(past), torch.tensor(ids), how, symbols)
    bits = nats.sum().item() / math.log(2)
    assert 8 * (len(content) - arithmetic_coding.HEADER.size) == pytest.approx(
        bits, abs=10, rel=0.002
    )
    with pytest.raises(UserError, match="damaged"):
        arithmetic_coding.restore(model, content, LETTERS, WEIGHTS, lessons=lessons)


def test_a_file_of_an_earlier_version_is_named_as_one():
    with pytest.raises(UserError, match="earlier version"):
        arithmetic_coding.length(b"c1" + bytes(30))


def test_the_number_of_threads_is_given_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        arithmetic_coding.compress(build("lstm", 7)[0], [1, 2], 0, LETTERS, WEIGHTS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_other_weights_and_other_platforms_are_refused(monkeypatch):
    model, _ = build("lstm", 7)
    content = arithmetic_coding.compress(model, [1, 2, 3], 0, LETTERS, WEIGHTS)
    with pytest.raises(UserError, match="compressed with other weights"):
        arithmetic_coding.restore(model, content, LETTERS, "f" * 16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
    with pytest.raises(UserError, match=r"on another platform.*NEON"):
        arithmetic_coding.restore(model, content, LETTERS, WEIGHTS)


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_still_right(place, flip):
    torch.manual_seed(0)
    model, _ = build("bigram", 7)
    ids = np.random.default_rng(0).integers(0, 7, 100).tolist()
    content = bytearray(arithmetic_coding.compress(model, ids, 0, LETTERS, WEIGHTS))
    content[place % len(content)] ^= flip
    with contextlib.suppress(UserError):
        assert arithmetic_coding.restore(model, bytes(content), LETTERS, WEIGHTS) == LETTERS.decode(
            ids
        )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a model in it."""
    torch.manual_seed(0)
    model, _ = build("lstm", 7)
    saved_model.save(tmp_path / "models/lstm", model, config("lstm", LETTERS.symbols))
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(compress.main, list(arguments))


def test_a_file_goes_there_and_back(project):
    (project / "text").write_text("abcabcabc")
    assert invoke("file", "--model", "lstm", "text", "small").exit_code == 0
    assert invoke("restore", "--model", "lstm", "small", "again").exit_code == 0
    assert (project / "again").read_text() == "abcabcabc"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("file", "--model", "lstn", "text", "x"), "unknown model 'lstn'"),
        (("file", "--model", "lstm", "none", "x"), "none: no such file"),
        (("file", "--model", "lstm", "text", "x"), "text: symbol 'z' (U+007A) at position 2"),
        (("restore", "--model", "lstm", "text", "x"), "text: it is not a text that charlm"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(project, command, expected):
    (project / "text").write_text("abz")
    result = invoke(*command)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {expected}")
    assert result.output.count("\n") == 1
    assert not (project / "x").exists()
