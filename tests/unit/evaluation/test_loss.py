import math

import pytest
import torch
from torch.nn import functional

from charlm import models
from charlm.evaluation import loss, metrics
from tests.zoo import build

VOCABULARY = 7


def plain_nats(model, context):
    """Nats of the last character of a context, recomputed from the others."""
    with torch.no_grad():
        logits_BTV, _ = model(context[None, :-1])
    return functional.cross_entropy(logits_BTV[:, -1], context[-1:]).item()


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("targets", [1, 2, 7, 8, 9, 12, 16, 45])
def test_every_target_is_scored_once_from_what_it_may_see(name, targets):
    """Against a loop over targets that recomputes each from the context that the rules give it."""
    model, block = build(name, VOCABULARY, 8)
    ids = torch.randint(VOCABULARY, (targets + 1,))
    windowed, _ = loss.windowed(model, ids, block)
    streaming, _ = loss.streaming(model, ids)
    assert len(windowed) == len(streaming) == targets
    start = 0
    for t in range(targets):
        expected = plain_nats(model, ids[t // block * block : t + 2])
        assert windowed[t].item() == pytest.approx(expected, rel=1e-4)
        if model.context_length is None:
            seen = ids[: t + 2]
        elif model.slides:
            seen = ids[max(0, t + 1 - model.context_length) : t + 2]
        else:
            if t - start == block:
                start = t - block // 2
            seen = ids[start : t + 2]
        assert streaming[t].item() == pytest.approx(plain_nats(model, seen), rel=1e-4)


@pytest.mark.parametrize("block", [1, 2, 5, 8])
def test_streaming_a_gpt_equals_its_key_value_cache(block):
    """Overlapping windows and the sampler's re-encoding are one rule, for odd blocks too."""
    model, _ = build("gpt", VOCABULARY, block)
    ids = torch.randint(VOCABULARY, (60,))
    with torch.no_grad():
        logits_BTV, _ = model(ids[None, :-1])
    expected, right = loss.score(logits_BTV[0], ids[1:])
    nats, correct = loss.streaming(model, ids)
    torch.testing.assert_close(nats, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(correct, right)


def test_many_windows_pass_in_several_calls(monkeypatch):
    (model, _), ids = build("gpt", VOCABULARY, 8), torch.randint(VOCABULARY, (500,))
    at_once = [loss.windowed(model, ids, 8)[0], loss.streaming(model, ids)[0]]
    monkeypatch.setattr(loss, "CHARACTERS_PER_PASS", 24)
    seen = []
    few = [
        loss.windowed(model, ids, 8, seen.append)[0],
        loss.streaming(model, ids, seen.append)[0],
    ]
    assert sum(seen) == 2 * 499
    for whole, parts in zip(at_once, few, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


def test_a_stream_carries_its_state_across_calls(monkeypatch):
    (model, _), ids = build("lstm", VOCABULARY, 8), torch.randint(VOCABULARY, (50,))
    whole, _ = loss.streaming(model, ids)
    monkeypatch.setattr(loss, "CHARACTERS_PER_PASS", 7)
    parts, _ = loss.streaming(model, ids)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


def test_a_pencil_case():
    """Two targets with probability 1/2 and 1/4: 1.5 bits each on average."""
    logits_BTV = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]).mul(math.log(2))
    leaf = loss.summarise(loss.score(logits_BTV, torch.tensor([0, 1])), bytes_=4)
    assert leaf["bits_per_char"] == pytest.approx(1.5)
    assert leaf["nats_per_char"] == pytest.approx(1.5 * math.log(2))
    assert leaf["bits_per_byte"] == pytest.approx(0.75)
    assert leaf["perplexity"] == pytest.approx(2**1.5)
    assert leaf["accuracy"] == 0.5
    assert leaf["characters"] == 2


def test_the_published_holdout_is_111540_targets(corpus_ids):
    ids = torch.cat([corpus_ids["train"][-1:], corpus_ids["validation"], corpus_ids["test"]])
    model = models.build("bigram", 65, 8, {})
    nats, _ = loss.windowed(model, ids, 8)
    assert len(nats) == 111_540
    whole = functional.cross_entropy(model(ids[None, :-1].long())[0][0], ids[1:].long())
    assert nats.mean().item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["lstm", "bigram", "kneser_ney"])
def test_an_excerpt_costs_what_streaming_says_and_shows_the_best_guesses(name, monkeypatch):
    monkeypatch.setattr(metrics, "BEFORE", 10)
    model, _ = build(name, VOCABULARY, 8)
    ids = torch.randint(VOCABULARY, (31,))
    rows = torch.empty(30, VOCABULARY, dtype=torch.float16)
    nats, right = loss.streaming(model, ids, rows_RV=rows)
    symbols = "".join(chr(97 + place) for place in range(VOCABULARY))
    found = metrics.excerpt(rows.numpy(), ids[1:].numpy(), symbols, 20)
    assert found["text"] == "".join(symbols[place] for place in ids[11:])
    assert found["bits"] == pytest.approx(nats[10:].numpy() / math.log(2), abs=0.015)
    likely = [row[0] == symbol for row, symbol in zip(found["guesses"], found["text"], strict=True)]
    assert sum(likely) <= int(right[10:].sum())  # symbols may be equally likely
    for guesses, percent in zip(found["guesses"], found["percent"], strict=True):
        assert len(guesses) == len(percent) == min(5, VOCABULARY)
        assert percent == sorted(percent, reverse=True)
    whole = metrics.excerpt(rows.numpy(), ids[1:].numpy(), symbols, 700)
    assert len(whole["text"]) == 30


def test_a_symbol_that_is_all_but_impossible_is_kept_as_a_number():
    rows_RV = torch.empty(1, 2, dtype=torch.float16)
    passes = loss.Collected(1, rows_RV)
    passes.add(torch.tensor([[0.0, -1e30]]), torch.tensor([0]))
    assert torch.isfinite(rows_RV).all()
    assert rows_RV[0].tolist() == [0.0, loss.SMALLEST_KEPT]
