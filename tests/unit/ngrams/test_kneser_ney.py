"""The pencil case: the text "a b a b a c" has the pairs ab, ba, ab, ba, ac.

Order 1, at the top, counts a 3, b 2, c 1: n_1 = n_2 = n_3 = 1, so Y = 1/3, D_1 = 1 - 2/3 = 1/3,
D_2 = 2 - 3 Y = 1, and n_4 = 0 makes D_3 = 3. What is taken is 1/3 + 1 + 3 = 13/3 of 6.

Order 2, at the top: ab 2, ba 2, ac 1, so n_1 = 1, n_2 = 2, Y = 1/5, D_1 = 1 - 2 Y 2 = 1/5, D_2 = 2
(n_3 = 0), and D_3 is undefined: 3/2. Below it order 1 counts what comes before: a follows b; b and
c follow a: one each, so n_1 = 3, n_2 = 0, Y = 1, D_1 = 1, the others undefined.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm import models, saved_model
from charlm.errors import UserError
from charlm.evaluation import loss
from charlm.ngrams import kneser_ney
from tests.workspace import encode_text

TEXT = np.array([0, 1, 0, 1, 0, 2])
A, B, C = range(3)
SIZES = {"discounts": 3, "continuation": True}


def probability(model, text, symbol):
    """Probability of a symbol after a text."""
    return math.exp(-model.nats(np.array([*text, symbol]), len(text))[0])


def test_discounts_by_hand():
    counts = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4])
    # Y = 8 / 16; D_1 = 1 - 2 Y 4/8, D_2 = 2 - 3 Y 2/4, D_3 = 3 - 4 Y 1/2.
    assert kneser_ney.discounts(counts) == pytest.approx((0.5, 1.25, 2.0))


def test_an_impossible_discount_falls_back():
    # Y = 1/3; D_2 = 2 - 3 Y 4/1 = -2 is impossible, D_1 = 1 - 2 Y 1 = 1/3 is not.
    counts = np.array([1, 2, 3, 3, 3, 3, 4])
    assert kneser_ney.discounts(counts) == pytest.approx((1 / 3, 1.0, 3 - 4 / 3 / 4))
    assert kneser_ney.discounts(np.array([5, 6, 7])) == kneser_ney.FALLBACK
    # D_1 = 1 - 2 Y n_2 / n_1 is 0 only if nothing is left to others: never accepted.
    assert all(d > 0 for d in kneser_ney.discounts(np.array([1, 2, 2, 3])))


def test_one_discount_by_hand():
    counts = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4])
    # D = n_1 / (n_1 + 2 n_2) = 8 / 16, whatever the count.
    assert kneser_ney.discounts(counts, kinds=1) == (0.5, 0.5, 0.5)
    # Without pairs nothing would be left of a count of one.
    assert kneser_ney.discounts(np.array([1, 1, 3]), kinds=1) == (0.5, 0.5, 0.5)


def test_lower_orders_may_count_occurrences():
    levels = kneser_ney.counts(TEXT, 3, 2).levels(2, continuation=False)
    assert levels[0].counts_G.tolist() == [3, 2, 1]
    assert kneser_ney.counts(TEXT, 3, 2).levels(2)[0].counts_G.tolist() == [1, 1, 1]


def test_add_one_by_hand():
    """After a: ab 2, ac 1, of 3. After b: ba 2. After c nothing was ever seen."""
    model = models.build("add_one", 3, 16, {"order": 2}).eval()
    model.recount(torch.tensor(TEXT))
    logits_BTV, _ = model(torch.tensor([[A, B, C]]))
    expected = [[1 / 6, 3 / 6, 2 / 6], [3 / 5, 1 / 5, 1 / 5], [1 / 3, 1 / 3, 1 / 3]]
    assert logits_BTV[0].exp().tolist() == [pytest.approx(row) for row in expected]


def test_order_1_by_hand():
    model = kneser_ney.counts(TEXT, 3, 1).model(1)
    rest = 13 / 18  # (1/3 + 1 + 3) / 6, spread evenly over three symbols
    assert model.discounts == [pytest.approx((1 / 3, 1, 3))]
    assert probability(model, [], A) == pytest.approx(0 / 6 + rest / 3)
    assert probability(model, [], B) == pytest.approx(1 / 6 + rest / 3)
    assert probability(model, [], C) == pytest.approx((2 / 3) / 6 + rest / 3)


def test_order_2_by_hand():
    model = kneser_ney.counts(TEXT, 3, 2).model(2)
    # Order 1 takes all of its counts away, so it is the uniform distribution: 1/3 each.
    assert model.discounts[0] == (1.0, 1.0, 1.5)
    assert model.discounts[1] == pytest.approx((1 / 5, 2, 3 / 2))
    # After a: ab 2, ac 1, of 3; taken 2 + 1/5.
    rest = (2 + 1 / 5) / 3
    assert probability(model, [A], B) == pytest.approx(0 + rest / 3)
    assert probability(model, [A], C) == pytest.approx((4 / 5) / 3 + rest / 3)
    assert probability(model, [A], A) == pytest.approx(rest / 3)
    # After b: ba 2 of 2, all taken. After c nothing was seen: order 1 as it is.
    assert probability(model, [B], A) == pytest.approx(1 / 3)
    assert probability(model, [C], A) == pytest.approx(1 / 3)


def test_order_3_by_hand():
    """aba 2, bab 1, bac 1. Below: ab, ba, ac after b, a, b: one each but ab (b) 1, ba (a) 1."""
    model = kneser_ney.counts(TEXT, 3, 3).model(3)
    # Top: n_1 = 2, n_2 = 1, Y = 1/2: D_1 = 1 - 2 (1/2)(1/2) = 1/2, D_2 = 2 (n_3 = 0), D_3 = 3/2.
    assert model.discounts[2] == pytest.approx((0.5, 2.0, 1.5))
    # Order 2: ab, ba and ac each come after one character: n_1 = 3, Y = 1, D_1 = 1: all is taken.
    assert model.discounts[1] == (1.0, 1.0, 1.5)
    # After "ba": bab 1, bac 1, of 2; half of each is taken, and what is below is uniform.
    assert probability(model, [B, A], B) == pytest.approx(0.5 / 2 + (1 / 2) / 3)
    assert probability(model, [B, A], C) == pytest.approx(0.5 / 2 + (1 / 2) / 3)
    assert probability(model, [B, A], A) == pytest.approx((1 / 2) / 3)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.integers(1, 6),
)
def test_probabilities_are_positive_and_sum_to_one(train, text, order):
    """For contexts seen and unseen; and the two ways to a probability agree."""
    model = kneser_ney.counts(np.array(train), 5, order).model(order)
    ids = np.array(text)
    p_TV = model.probabilities(kneser_ney.places(model.levels, model.vocabulary, ids))
    assert p_TV.sum(axis=1) == pytest.approx(np.ones(len(ids)))
    assert (p_TV > 0).all()
    nats = model.nats(ids, 1)
    assert nats == pytest.approx(-np.log(p_TV[np.arange(len(ids) - 1), ids[1:]]))


def test_a_text_of_300_characters_has_finite_losses(corpus_text, tmp_path):
    train, validation, test = encode_text(corpus_text[:300], tmp_path, 0.8, 0.1).values()
    size = len(set(corpus_text[:300]))
    for order in (1, 2, 5, 10):
        model = kneser_ney.counts(train, size, order).model(order)
        nats = model.nats(np.concatenate([train, validation, test]), len(train))
        assert np.isfinite(nats).all()
        # No worse than knowing nothing by more than a bit, and better with what there is.
        assert nats.mean() < math.log(size) + 0.7


def test_the_measured_loss_of_seven_grams(corpus_ids):
    """1.5165 nats on the last tenth; validation 1.453 and test 1.580 of it."""
    train, validation, test = (ids.numpy() for ids in corpus_ids.values())
    counts = kneser_ney.counts(train, 65, 7)
    ids = np.concatenate([train[-6:], validation, test])
    nats = counts.model(7).nats(ids, 6)
    assert nats.mean() == pytest.approx(1.5165, abs=0.0005)
    assert nats[: len(validation)].mean() == pytest.approx(1.453, abs=0.001)
    assert nats[len(validation) :].mean() == pytest.approx(1.580, abs=0.001)
    # The unigram continuation counts of this very text give an impossible discount.
    assert counts.model(7).discounts[0][1] == kneser_ney.FALLBACK[1]
    # More context than the text's own length does no harm.
    assert counts.model(99).nats(ids, 6).mean() == nats.mean()


def fitted(text, size, order):
    model = models.build("kneser_ney", size, 16, SIZES | {"order": order}).eval()
    model.recount(torch.tensor(text, dtype=torch.uint8))
    return model


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(0, 4), min_size=2, max_size=20),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_in_the_zoo_its_logits_are_the_log_probabilities_however_it_is_fed(
    train, text, order, piece
):
    model = fitted(train, 5, order)
    ids = torch.tensor([text, text[::-1]])
    whole, _ = model(ids)
    state, pieces = None, []
    for part in ids.split(piece, dim=1):
        logits, state = model(part, state)
        pieces.append(logits)
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    nats = kneser_ney.counts(np.array(train), 5, order).model(order).nats(np.array(text), 1)
    found = -whole[0].log_softmax(-1)[range(len(text) - 1), text[1:]]
    assert found.tolist() == pytest.approx(nats.tolist(), abs=1e-5)


def test_streaming_carries_its_state_although_it_is_bounded(corpus_ids):
    """Overlapping windows would ask for three characters of context here and there."""
    held = torch.cat([corpus_ids["train"][-6:], corpus_ids["validation"][:3000]])
    model = fitted(corpus_ids["train"][:200_000].tolist(), 65, 7)
    assert model.context_length == 6
    nats, _ = loss.streaming(model, held)
    counts = kneser_ney.counts(corpus_ids["train"][:200_000].numpy(), 65, 7)
    expected = counts.model(7).nats(held.numpy(), 1)
    assert nats.numpy() == pytest.approx(expected, abs=1e-5)
    windowed, _ = loss.windowed(model, held, 16)
    assert windowed.mean() > nats.mean()


def config():
    return saved_model.Config("kneser_ney", 16, "train", "abc", SIZES | {"order": 3}, {}, 1, "")


def test_counts_are_stored_and_loaded(tmp_path):
    model = fitted([0, 1, 0, 1, 0, 2], 3, 3)
    assert model.parameter_count == 3 + 3 + 3
    saved_model.save(tmp_path, model, config())
    loaded, _ = saved_model.load(tmp_path, torch.device("cpu"))
    ids = torch.tensor([[0, 1, 2, 0, 0]])
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    assert loaded.parameter_count == model.parameter_count


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("codes_2", [2, 1, 3], "order 2 holds n-grams that cannot be"),
        ("codes_2", [1, 3, 900], "order 2 holds n-grams that cannot be"),
        ("counts_1", [1, -1, 1], "order 1 holds n-grams that cannot be"),
        ("counts_1", [1, 1], "must be int64 vectors of one length"),
        ("codes_1", [], "must be int64 vectors of one length"),
    ],
)
def test_counts_that_cannot_be_are_refused_in_one_line(tmp_path, name, value, expected):
    model = fitted([0, 1, 0, 1, 0, 2], 3, 3)
    model.ngrams.register_buffer(name, torch.tensor(value, dtype=torch.int64))
    saved_model.save(tmp_path, model, config())
    with pytest.raises(UserError, match=expected):
        saved_model.load(tmp_path, torch.device("cpu"))
