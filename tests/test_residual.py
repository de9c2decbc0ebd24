"""What a model on top of counts is told of its training text, and what it makes of it."""

import math
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.nn import functional

from charlm import memory, training
from charlm.errors import UserError
from charlm.models import kneser_ney
from charlm.models.base import ResidualModel
from tests.zoo import SMOKE, build

NAME = "residual_lstm"
FOLDS = SMOKE.residuals[NAME].architecture["folds"]


def fresh(symbols=65):
    torch.manual_seed(1)
    model, _ = build(NAME, symbols)
    assert isinstance(model, ResidualModel)
    return model


def test_each_part_is_expected_by_counts_of_all_others(corpus_ids):
    text_N = corpus_ids["train"][:4001]
    model = fresh()
    expected_NV = model.study(text_N)
    assert expected_NV.shape == (4000, 65)
    assert expected_NV.dtype == torch.float16
    first, last = (1 + 4000 * fold // FOLDS for fold in (FOLDS - 1, FOLDS))
    others = kneser_ney.Model(65, 8, kneser_ney.Architecture(order=model.base.order))
    others.fit(torch.cat([text_N[:first], text_N[last:]]))
    logits_BTV, _ = others(text_N[None, first - 7 : last - 1])
    torch.testing.assert_close(expected_NV[first - 1 : last - 1], logits_BTV[0, 6:].half())


def test_no_expectation_knows_its_character(corpus_ids):
    """Change any character: what is expected in its place, and of its part so far, stays."""
    text_N = corpus_ids["train"][:2001]
    before_NV = fresh().study(text_N)
    for changed in (1, 100, 101, 777, 2000):
        other_N = text_N.clone()
        other_N[changed] = (other_N[changed] + 1) % 65
        part = (changed - 1) * FOLDS // 2000
        first = 2000 * part // FOLDS
        after_NV = fresh().study(other_N)
        assert torch.equal(before_NV[first:changed], after_NV[first:changed])
        assert not torch.equal(before_NV, after_NV)


def test_counts_of_the_whole_text_would_know_it(corpus_ids):
    """So they are not what training is told: they lose far less there than elsewhere."""
    text_N = corpus_ids["train"][:20_001]
    model = fresh()
    told = functional.cross_entropy(model.study(text_N).float(), text_N[1:].long())
    knowing = functional.cross_entropy(model.base(text_N[None])[0][0, :-1], text_N[1:].long())
    assert knowing < told - 0.5


def test_it_starts_near_the_counts_and_learns_what_they_leave(corpus_ids):
    text_N, held_N = corpus_ids["train"][:60_000], corpus_ids["validation"]
    model = fresh()
    plan = SMOKE.model(NAME).training.model_copy(update={"steps": 60, "validate_every": 60})
    told_NV = model.study(text_N)
    curve = training.fit(model, text_N, held_N, plan, 2, expected_NV=told_NV)
    counts = float(functional.cross_entropy(told_NV.float(), text_N[1:].long()))
    assert curve[0].train_nats < counts + 0.3
    assert curve[-1].train_nats < counts - 0.01
    assert curve[-1].validation_nats < curve[0].validation_nats


def test_the_counts_alone_are_what_is_left_without_the_lstm(corpus_ids):
    model = fresh()
    with torch.no_grad():
        for part in (model.correction, model.trust):
            part.weight.zero_()
        model.correction.bias.zero_()
    ids_BT = corpus_ids["validation"][None, :500].long()
    torch.testing.assert_close(model(ids_BT)[0], model.base(ids_BT)[0])


def test_what_counts_say_of_a_text_must_fit_the_memory(monkeypatch):
    model, budget = fresh(), SMOKE.model(NAME).training
    characters = 10**9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**34))
    with pytest.raises(UserError, match="260,000,000,000 for what counts say of the text, but"):
        memory.check(NAME, model, budget, characters, 65)


def test_a_vocabulary_of_one_symbol_costs_nothing():
    model = fresh(1)
    model.study(torch.zeros(200, dtype=torch.long))
    nats = -model(torch.zeros(1, 50, dtype=torch.long))[0].log_softmax(-1)
    assert math.isclose(nats.abs().max().item(), 0.0, abs_tol=1e-6)
