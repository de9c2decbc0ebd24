import string

import pytest
import torch

from charlm.data.vocabulary import Vocabulary
from charlm.evaluation import context_mixing
from charlm.evaluation.context_mixing import CONTEXTS, ContextMixing, Reader

PLAY = "First:\nI had a dream.\n\nOther:\nI had a DREAM.\n\nFirst:\nI had"
VOCABULARY = Vocabulary("\n '.:" + string.ascii_uppercase + string.ascii_lowercase)
UNIFORM = torch.zeros(1, len(VOCABULARY))
NAMES = ("6 characters", "10 characters", "word", "word, 1 before", "word, 2 before")
NAMES += ("word, but one before", "line", "speaker's word", "answer", "answer to both")


def contexts(text):
    """Return the contexts behind the last character, by name."""
    reader = Reader(VOCABULARY.symbols)
    numbers = [reader.read(symbol) for symbol in VOCABULARY.encode(text).tolist()]
    return dict(zip(NAMES, numbers[-1], strict=True))


def same(left, right):
    """Return which contexts the ends of two texts share."""
    return {name for name in NAMES if contexts(left)[name] == contexts(right)[name]}


def mixing(text, rate=0.1):
    ids = torch.from_numpy(VOCABULARY.encode(text)).long()
    found = ContextMixing(VOCABULARY.symbols, ids, rate)
    found.read(ids[-1:].tolist())
    return found


BEGUN = "A:\n\nB:\n"
"""Behind it nobody is being named."""


WORD = {"word", "speaker's word"}


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("I had a dream", "I had a dream", {*NAMES}),
        ("had a dream", "not a dream", WORD | {"6 characters", "word, 1 before"}),
        ("I had a dream", "so I had a dream", {*NAMES} - {"line", "answer", "answer to both"}),
        ("he had my den", "he had a den", WORD | {"word, but one before"}),
        ("a DREAM", "a dream", WORD | {*NAMES[3:6]}),
        ("so\nthe", "go to\nthe", WORD | {*NAMES[6:]}),
        ("no. ", "no ", WORD | {*NAMES[3:6]}),
        ("dream", "cream", set()),
    ],
)
def test_contexts_are_those_of_the_module(left, right, shared):
    assert same(BEGUN + left, BEGUN + right) == shared


def test_who_spoke_is_known_where_a_name_begins():
    found = same("A:\nso it is\n\nB:\nno\n\n", "B:\nso\n\nB:\nit is\n\n")
    assert {"line", "answer"} <= found
    assert "answer to both" not in found
    assert "answer" not in same("A:\nso\n\n", "B:\nso\n\n")


def test_who_speaks_is_known_in_a_speech():
    assert "speaker's word" in same("A:\nso it", "A:\nno it")
    assert "speaker's word" not in same("A:\nso it", "B:\nso it")


def test_a_paragraph_begins_behind_an_empty_line():
    reader = Reader(VOCABULARY.symbols)
    kinds = []
    for symbol in VOCABULARY.encode("ad\nad\n\nad\n").tolist():
        reader.read(symbol)
        kinds.append(reader.kind)
    begins = context_mixing.LETTERS + 1
    assert kinds == [begins + 1, begins + 2, 0, 1, 2, 0, begins, begins + 1, begins + 2, 0]


def test_long_lines_and_words_take_no_longer():
    """What was read is hashed once, not again for each character."""
    reader = Reader("a")
    for _ in range(300_000):
        assert len(reader.read(0)) == CONTEXTS


def test_what_followed_in_like_contexts_is_likelier():
    p_V = mixing(PLAY).mix(UNIFORM)[0].softmax(-1).detach()
    assert float(p_V.sum()) == pytest.approx(1)
    assert VOCABULARY.symbols[int(p_V.argmax())] == " "


def test_the_formula_by_hand():
    """Behind a space came `b`, `c` and `b` again; one context by itself has a weight."""
    found = ContextMixing(" bc", torch.tensor([0, 1, 0, 2, 0, 1, 0]), 0.1)
    found.read([0])
    weights_ZK, weights_CK = found.weights
    with torch.no_grad():
        weights_ZK[:] = 0
        # Different symbols followed, so these two weights make one.
        weights_ZK[:, 0], weights_ZK[:, 1 + NAMES.index("word")] = 1.0, 0.75
        weights_CK[context_mixing.DIFFERING, NAMES.index("word")] = 0.25
        weights_CK[context_mixing.AGREEING, NAMES.index("word")] = 9.0
    p_V, fading, prior = torch.tensor([0.5, 0.25, 0.25]), context_mixing.DECAY, 0.5
    assert prior == context_mixing.PRIOR
    counts_V = torch.tensor([0.0, 1 + fading**2, fading])
    expected_V = (counts_V + prior * p_V) / (counts_V.sum() + prior)
    torch.testing.assert_close(found.mix(p_V.log()[None])[0].detach().softmax(-1), expected_V)


def test_positions_of_the_past_and_later_ones_count_alike():
    """Wherever the past ends, the same is known in the end."""
    ids = VOCABULARY.encode(PLAY * 20).tolist()
    said = []
    for cut in (2, 100, len(ids) - 1):
        found = ContextMixing(VOCABULARY.symbols, torch.tensor(ids[:cut]), 0.1)
        found.read(ids[cut - 1 : -1])
        found.step([torch.zeros_like(weight) for weight in found.weights])
        found.read(ids[-1:])
        said.append(found.mix(UNIFORM))
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


def test_of_a_long_past_the_end_counts(monkeypatch):
    monkeypatch.setattr(context_mixing, "MOST_PAST", 40)
    ids = VOCABULARY.encode(PLAY * 20)
    said = []
    for past in (ids, ids[-41:]):
        found = ContextMixing(VOCABULARY.symbols, torch.tensor(past), 0.1)
        found.read(ids[-1:].tolist())
        said.append(found.mix(UNIFORM))
    assert torch.equal(*said)


def test_piece_by_piece_it_says_what_it_says_of_many():
    ids = VOCABULARY.encode(PLAY).tolist()
    together = ContextMixing(VOCABULARY.symbols, torch.tensor(ids[:9]), 0.1)
    together.read(ids[8:])
    logits_SV = together.mix(UNIFORM.expand(len(ids) - 8, -1))
    single = ContextMixing(VOCABULARY.symbols, torch.tensor(ids[:9]), 0.1)
    for place, symbol in enumerate(ids[8:]):
        single.read([symbol])
        assert torch.equal(single.mix(UNIFORM)[0], logits_SV[place])


def test_a_step_raises_the_weights_of_contexts_that_were_right():
    found = mixing(PLAY)
    before = [weight.detach().clone() for weight in found.weights]
    target = torch.tensor([VOCABULARY.symbols.index(" ")])
    loss = torch.nn.functional.cross_entropy(found.mix(UNIFORM), target)
    slopes = torch.autograd.grad(loss, found.weights)
    found.step(list(slopes))
    for weight, old, slope in zip(found.weights, before, slopes, strict=True):
        assert (weight > old - 1e-6).all()
        expected = old - 0.1 * slope / (1 + slope.abs())
        torch.testing.assert_close(weight.detach(), expected)
        assert (weight > old).any()
    found.read(target.tolist())
    assert found.mix(UNIFORM).shape == UNIFORM.shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", context_mixing.ONCE),
        ("ab ab", context_mixing.AGREEING),
        ("ab ac", context_mixing.DIFFERING),
    ],
)
def test_evidence_is_told_apart(text, expected):
    """Behind `a`, which has one follower, one twice, or two."""
    found = mixing(f"{text} a")
    assert found._classes_SK[-1, NAMES.index("word")] == expected


def test_lines_may_end_as_windows_ends_them():
    def kinds(text):
        reader, found = Reader("\n\rab"), []
        for symbol in text:
            reader.read("\n\rab".index(symbol))
            if symbol != "\r":
                found.append(reader.kind)
        return found

    text = "a\nb\n\na\nb\n"
    assert kinds(text) == kinds(text.replace("\n", "\r\n"))


def test_what_a_model_rules_out_stays_finite():
    ruled_out = torch.full((1, len(VOCABULARY)), -1e4)
    ruled_out[0, 0] = 1e4
    found = mixing(PLAY).mix(ruled_out)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("text", ["", "a"])
def test_hardly_any_past_is_enough(text):
    found = ContextMixing("a", torch.zeros(len(text), dtype=torch.uint8), 0.1)
    found.read([0])
    assert found.mix(torch.zeros(1, 1)).shape == (1, 1)
