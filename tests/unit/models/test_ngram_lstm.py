"""The features of the n-gram LSTM, and what it makes of them."""

import math
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.nn import functional

from charlm import models
from charlm.errors import UserError
from charlm.ngrams.module import NgramCounts
from charlm.training import memory
from tests.zoo import SMOKE, build, fit

NAME = "ngram_lstm"
ARCHITECTURE = SMOKE.run(NAME).architecture
FOLDS = ARCHITECTURE["folds"]


def fresh(symbols=65):
    torch.manual_seed(1)
    model, _ = build(NAME, symbols)
    return model


def test_features_of_each_part_are_of_counts_of_all_others(corpus_ids):
    text_N = corpus_ids["train"][:4001]
    model = fresh()
    features_NKV = model.prepare(text_N)
    assert features_NKV.shape == (4000, model.features, 65)
    assert features_NKV.dtype == torch.float16
    first, last = (1 + 4000 * fold // FOLDS for fold in (FOLDS - 1, FOLDS))
    others = NgramCounts(65, model.ngrams.order)
    others.fit(torch.cat([text_N[:first], text_N[last:]]))
    logits_BTV, _ = others(text_N[None, first - 7 : last - 1])
    torch.testing.assert_close(features_NKV[first - 1 : last - 1, 0], logits_BTV[0, 6:].half())


def test_the_match_model_is_the_same_in_training_and_afterwards(corpus_ids):
    """It needs no parts: it looks back before each character, across the cuts."""
    text_N = corpus_ids["train"][:4001]
    model = fresh()
    features_NKV = model.prepare(text_N)
    computed_BTKV, _, _ = model._features(text_N[None, :-1].long(), None, None)
    assert torch.equal(features_NKV[:, 1:], computed_BTKV[0, :, 1:].half())
    assert features_NKV[:, 1:].max() > 0


def test_no_feature_knows_its_character(corpus_ids):
    """Change any character: the features at its place, and of its part so far, stay."""
    text_N = corpus_ids["train"][:2001]
    before_NKV = fresh().prepare(text_N)
    for changed in (1, 100, 101, 777, 2000):
        other_N = text_N.clone()
        other_N[changed] = (other_N[changed] + 1) % 65
        part = (changed - 1) * FOLDS // 2000
        first = 2000 * part // FOLDS
        after_NKV = fresh().prepare(other_N)
        assert torch.equal(before_NKV[first:changed], after_NKV[first:changed])
        assert not torch.equal(before_NKV, after_NKV)
        assert torch.equal(before_NKV[:changed, 1:], after_NKV[:changed, 1:])


def test_counts_of_the_whole_text_overfit_it(corpus_ids):
    """So features are cross-fitted: counts lose far less on their own text than elsewhere."""
    text_N = corpus_ids["train"][:20_001]
    model = fresh()
    fitted = functional.cross_entropy(model.prepare(text_N)[:, 0].float(), text_N[1:].long())
    overfitted = functional.cross_entropy(model.ngrams(text_N[None])[0][0, :-1], text_N[1:].long())
    assert overfitted < fitted - 0.5


def test_it_starts_near_the_counts_and_corrects_them(corpus_ids):
    text_N, held_N = corpus_ids["train"][:60_000], corpus_ids["validation"]
    model = fresh()
    plan = SMOKE.run(NAME).training.model_copy(update={"steps": 60, "validate_every": 60})
    features_NKV = model.prepare(text_N)
    curve = fit(model, text_N, held_N, plan, 2, features_NKV=features_NKV)
    counts = float(functional.cross_entropy(features_NKV[:, 0].float(), text_N[1:].long()))
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
    torch.testing.assert_close(model(ids_BT)[0], model.ngrams(ids_BT)[0])


def test_a_name_that_was_never_read_comes_back(corpus_ids):
    """At once, if the match model is trusted: what followed its first letters stands out."""
    model = fresh()
    model.prepare(corpus_ids["train"][:20_001])
    with torch.no_grad():
        model.trust.bias[1:] = 4
    around = corpus_ids["train"][:300].long()
    name = torch.tensor([4, 60, 8, 60, 4, 59, 11, 60])
    read = torch.cat([name, around, name])[None, :-1]
    p_TV = model(read)[0][0].softmax(-1)
    first, second = (p_TV[range(start + 3, start + 7), name[4:]] for start in (0, 308))
    assert (second > 5 * first).all()


def test_without_reach_there_are_no_matches(corpus_ids):
    torch.manual_seed(1)
    model = models.build(NAME, 65, 64, {**ARCHITECTURE, "reach": 0})
    features_NKV = model.prepare(corpus_ids["train"][:2001])
    assert not features_NKV[:, 1:].any()
    _, state = model(corpus_ids["train"][None, :600].long())
    assert state[3].numel() == 0


def test_classes_of_length_must_ascend():
    for wrong in ([5, 3], [3, 3], []):
        with pytest.raises(ValueError, match="matches"):
            models.build(NAME, 65, 64, {**ARCHITECTURE, "matches": wrong})


def test_features_of_a_text_must_fit_in_memory(monkeypatch):
    model, plan = fresh(), SMOKE.run(NAME).training
    characters = 10**9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**34))
    with pytest.raises(UserError, match="520,000,000,000 for features of the text, but"):
        memory.check(NAME, model, plan, characters, 65)


def test_a_vocabulary_of_one_symbol_costs_nothing():
    model = fresh(1)
    model.prepare(torch.zeros(200, dtype=torch.long))
    nats = -model(torch.zeros(1, 50, dtype=torch.long))[0].log_softmax(-1)
    assert math.isclose(nats.abs().max().item(), 0.0, abs_tol=1e-6)
