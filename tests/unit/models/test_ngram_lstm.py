"""What a model on top of counts is told of its training text, and what it makes of it."""

import math
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.nn import functional

from charlm import models
from charlm.errors import UserError
from charlm.models import kneser_ney
from charlm.models.base import ResidualModel
from charlm.training import memory, trainer
from tests.zoo import SMOKE, build

NAME = "residual_lstm"
ARCHITECTURE = SMOKE.model(NAME).architecture
FOLDS = ARCHITECTURE["folds"]


def fresh(symbols=65):
    torch.manual_seed(1)
    model, _ = build(NAME, symbols)
    assert isinstance(model, ResidualModel)
    return model


def test_each_part_is_expected_by_counts_of_all_others(corpus_ids):
    text_N = corpus_ids["train"][:4001]
    model = fresh()
    expected_NKV = model.study(text_N)
    assert expected_NKV.shape == (4000, model.sources, 65)
    assert expected_NKV.dtype == torch.float16
    first, last = (1 + 4000 * fold // FOLDS for fold in (FOLDS - 1, FOLDS))
    others = kneser_ney.Model(65, 8, kneser_ney.Architecture(order=model.base.order))
    others.fit(torch.cat([text_N[:first], text_N[last:]]))
    logits_BTV, _ = others(text_N[None, first - 7 : last - 1])
    torch.testing.assert_close(expected_NKV[first - 1 : last - 1, 0], logits_BTV[0, 6:].half())


def test_the_memory_tells_training_what_it_tells_afterwards(corpus_ids):
    """It needs no parts: it holds what is before each character, across the cuts."""
    text_N = corpus_ids["train"][:4001]
    model = fresh()
    told_NKV = model.study(text_N)
    asked_BTKV, _, _ = model._ask(text_N[None, :-1].long(), None, None)
    assert torch.equal(told_NKV[:, 1:], asked_BTKV[0, :, 1:].half())
    assert told_NKV[:, 1:].max() > 0


def test_no_expectation_knows_its_character(corpus_ids):
    """Change any character: what is expected in its place, and of its part so far, stays."""
    text_N = corpus_ids["train"][:2001]
    before_NKV = fresh().study(text_N)
    for changed in (1, 100, 101, 777, 2000):
        other_N = text_N.clone()
        other_N[changed] = (other_N[changed] + 1) % 65
        part = (changed - 1) * FOLDS // 2000
        first = 2000 * part // FOLDS
        after_NKV = fresh().study(other_N)
        assert torch.equal(before_NKV[first:changed], after_NKV[first:changed])
        assert not torch.equal(before_NKV, after_NKV)
        assert torch.equal(before_NKV[:changed, 1:], after_NKV[:changed, 1:])


def test_counts_of_the_whole_text_would_know_it(corpus_ids):
    """So they are not what training is told: they lose far less there than elsewhere."""
    text_N = corpus_ids["train"][:20_001]
    model = fresh()
    told = functional.cross_entropy(model.study(text_N)[:, 0].float(), text_N[1:].long())
    knowing = functional.cross_entropy(model.base(text_N[None])[0][0, :-1], text_N[1:].long())
    assert knowing < told - 0.5


def test_it_starts_near_the_counts_and_learns_what_they_leave(corpus_ids):
    text_N, held_N = corpus_ids["train"][:60_000], corpus_ids["validation"]
    model = fresh()
    plan = SMOKE.model(NAME).training.model_copy(update={"steps": 60, "validate_every": 60})
    told_NKV = model.study(text_N)
    curve = trainer.fit(model, text_N, held_N, plan, 2, expected_NKV=told_NKV)
    counts = float(functional.cross_entropy(told_NKV[:, 0].float(), text_N[1:].long()))
    assert curve[0].train_nats < counts + 0.3
    assert curve[-1].train_nats < counts - 0.01
    assert curve[-1].validation_nats < curve[0].validation_nats


def test_the_counts_alone_are_what_is_left_without_the_lstm(corpus_ids):
    model = fresh()
    with torch.no_grad():
        for part in (model.correction, model.trust):
            part.weight.zero_()
        model.correction.bias.zero_()
        model.trust.bias[1:] = 0
    ids_BT = corpus_ids["validation"][None, :500].long()
    torch.testing.assert_close(model(ids_BT)[0], model.base(ids_BT)[0])


def test_a_name_that_was_never_read_comes_back(corpus_ids):
    """At once, if it is trusted: what stood behind its first letters a while ago stands out."""
    model = fresh()
    model.study(corpus_ids["train"][:20_001])
    with torch.no_grad():
        model.trust.bias[1:] = 4
    around = corpus_ids["train"][:300].long()
    name = torch.tensor([4, 60, 8, 60, 4, 59, 11, 60])
    read = torch.cat([name, around, name])[None, :-1]
    p_TV = model(read)[0][0].softmax(-1)
    first, second = (p_TV[range(start + 3, start + 7), name[4:]] for start in (0, 308))
    assert (second > 5 * first).all()


def test_without_reach_nothing_is_remembered(corpus_ids):
    torch.manual_seed(1)
    model = models.build(NAME, 65, 64, {**ARCHITECTURE, "reach": 0})
    told_NKV = model.study(corpus_ids["train"][:2001])
    assert not told_NKV[:, 1:].any()
    _, state = model(corpus_ids["train"][None, :600].long())
    assert state[3].numel() == 0


def test_classes_of_length_must_ascend():
    for wrong in ([5, 3], [3, 3], []):
        with pytest.raises(ValueError, match="matches"):
            models.build(NAME, 65, 64, {**ARCHITECTURE, "matches": wrong})


def test_what_counts_say_of_a_text_must_fit_the_memory(monkeypatch):
    model, budget = fresh(), SMOKE.model(NAME).training
    characters = 10**9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**34))
    with pytest.raises(UserError, match="520,000,000,000 for what counts say of the text, but"):
        memory.check(NAME, model, budget, characters, 65)


def test_a_vocabulary_of_one_symbol_costs_nothing():
    model = fresh(1)
    model.study(torch.zeros(200, dtype=torch.long))
    nats = -model(torch.zeros(1, 50, dtype=torch.long))[0].log_softmax(-1)
    assert math.isclose(nats.abs().max().item(), 0.0, abs_tol=1e-6)
