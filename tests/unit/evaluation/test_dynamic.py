import pytest
import torch
from torch.nn import functional

from charlm.config.params import Dynamic
from charlm.errors import UserError
from charlm.evaluation import dynamic, loss
from charlm.ngrams.module import NgramCounts
from tests.zoo import build

HOW = Dynamic(
    every=5,
    learning_rate=0.02,
    epsilon=1e-3,
    decay=0.01,
    statistics=20,
    recount=10,
    context_rate=0.0,
)
TEXT = torch.randint(7, (77,), generator=torch.Generator().manual_seed(1))
PAST, IDS = TEXT[:30], TEXT[30:]
SYMBOLS = "\n 'abcd"
MIXING = HOW.model_copy(update={"context_rate": 0.05})


def fresh(name="lstm"):
    torch.manual_seed(3)
    return build(name, 7, 8)[0]


def changing(**changes):
    return HOW.model_copy(update=changes)


def logits(ids, name="lstm", of=dynamic.pieces, how=HOW):
    return torch.cat([logits_SV for logits_SV, _ in of(fresh(name), PAST, ids, how, SYMBOLS)])


@pytest.mark.parametrize("how", [HOW, MIXING], ids=["alone", "with context mixing"])
@pytest.mark.parametrize("name", ["lstm", "mixture"])
@pytest.mark.parametrize("t", [0, 1, 4, 5, 6, 23, 45, 46])
def test_no_prediction_rests_on_its_target_or_on_what_follows(name, t, how):
    """Change character t: every distribution up to that of t itself is bit for bit the same."""
    changed = IDS.clone()
    changed[t] = (changed[t] + 1) % 7
    before, after = (logits(ids, name, how=how) for ids in (IDS, changed))
    assert torch.equal(before[: t + 1], after[: t + 1])
    if t < len(IDS) - 1:
        assert not torch.equal(before[t + 1 :], after[t + 1 :])


def test_a_leak_of_one_character_would_be_seen():
    """Learning from a piece before it is scored is what the test above must catch."""

    def leaking(model, past, ids, how, symbols):
        for first in range(0, len(ids), how.every):
            targets_S = ids[first : first + how.every]
            inputs_S = torch.cat([past[-1:], ids])[first : first + len(targets_S)]
            loss = functional.cross_entropy(model(inputs_S[None])[0][0], targets_S)
            with torch.no_grad():
                for weight, slope in zip(
                    model.parameters(),
                    torch.autograd.grad(loss, list(model.parameters())),
                    strict=True,
                ):
                    weight.sub_(how.learning_rate * slope)
            yield model(inputs_S[None])[0][0].detach(), targets_S

    changed = IDS.clone()
    changed[23] = (changed[23] + 1) % 7
    assert not torch.equal(logits(IDS, of=leaking)[:24], logits(changed, of=leaking)[:24])


def test_a_step_of_nothing_is_streaming():
    nats, right = dynamic.scores(fresh(), PAST, IDS, changing(learning_rate=1e-30), SYMBOLS)
    expected, correct = loss.streaming(fresh(), TEXT[29:])
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(right, correct)


def test_two_steps_by_hand():
    """A bigram, whose gradient is the probabilities less one at the target, in one row."""
    model, how = fresh("bigram"), changing(every=1, learning_rate=0.5, statistics=2, decay=0.1)
    trained = model.logits.weight.detach().clone()

    def gradient(table, before, after):
        found = torch.zeros_like(table)
        found[before] = torch.softmax(table[before], -1)
        found[before, after] -= 1
        return found

    # The statistics are of 3 -> 2 and 2 -> 5; 5 -> 4 and 4 -> 4 are scored.
    scale = (gradient(trained, 3, 2) ** 2 + gradient(trained, 2, 5) ** 2).div(2).sqrt()
    expected = trained.clone()
    for before, after in ((5, 4), (4, 4)):
        expected -= 0.5 * gradient(expected, before, after) / (scale + how.epsilon)
        expected += (0.1 * scale / scale.mean()).clamp(max=1) * (trained - expected)
    past, targets = torch.tensor([1, 3, 2, 5]), torch.tensor([4, 4])
    list(dynamic.pieces(model, past, targets, how, SYMBOLS))
    torch.testing.assert_close(model.logits.weight.detach(), expected)


def test_counts_inside_are_counted_again_on_what_was_scored(monkeypatch):
    model, fitted = fresh("mixture"), []
    (counts,) = (part for part in model.modules() if isinstance(part, NgramCounts))
    fit = counts.fit
    monkeypatch.setattr(counts, "fit", lambda ids: [fitted.append(ids.clone()), fit(ids)])
    dynamic.scores(model, PAST, IDS, changing(recount=20), SYMBOLS)
    # At first without the part of the past on which gradients are looked at.
    assert [len(ids) for ids in fitted] == [9, 30, 50, 70]
    assert torch.equal(fitted[3], TEXT[:70])


def test_a_text_of_one_symbol_costs_nothing():
    """There are no gradients, so there is nothing to scale steps by."""
    torch.manual_seed(3)
    model, _ = build("lstm", 1, 8)
    past, text = torch.zeros(30, dtype=torch.uint8), torch.zeros(40, dtype=torch.uint8)
    nats_N, right_N = dynamic.scores(model, past, text, MIXING, "a")
    assert nats_N.tolist() == [0.0] * 40
    assert right_N.all()


def test_a_text_that_repeats_itself_is_learned():
    past, ids = torch.randint(4, (100,)), torch.tensor([0, 1, 2, 3] * 100)
    static, _ = loss.streaming(fresh(), ids)
    nats, _ = dynamic.scores(fresh(), past, ids, changing(decay=0.0), "abcd")
    assert nats[-100:].mean() < 0.5 * static[-100:].mean()


@pytest.mark.parametrize("name", ["gpt", "mixture", "rnn", "mlp"])
def test_models_of_every_kind_learn(name):
    nats, _ = dynamic.scores(fresh(name), PAST, IDS, HOW, SYMBOLS)
    assert torch.isfinite(nats).all()
    assert len(nats) == len(IDS)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(UserError, match="no weights that gradients could change"):
        dynamic.scores(fresh("kneser_ney"), PAST, IDS, HOW, SYMBOLS)
    with pytest.raises(UserError, match=r"its loss is (nan|inf): lower"):
        dynamic.scores(fresh(), PAST, IDS, changing(every=1, learning_rate=1e38), SYMBOLS)
    with pytest.raises(UserError, match="gradients need more than 5 characters of training"):
        dynamic.scores(fresh(), PAST[:5], IDS, HOW, SYMBOLS)
