import pytest
import torch
from torch.nn import functional

from charlm import adaptive, evaluation
from charlm.errors import UserError
from charlm.params import Adaptive
from tests.zoo import build

HOW = Adaptive(every=5, learning_rate=0.5, clip=1.0)
IDS = torch.randint(7, (48,), generator=torch.Generator().manual_seed(1))


def fresh(name="lstm"):
    torch.manual_seed(3)
    return build(name, 7, 8)[0]


def logits(ids, how=HOW, of=adaptive.stretches):
    return torch.cat([logits_SV for logits_SV, _ in of(fresh(), ids, how)])


@pytest.mark.parametrize("t", [1, 4, 5, 6, 23, 46, 47])
def test_no_prediction_rests_on_its_target_or_on_what_follows(t):
    """Change character t: every distribution up to that of t itself is bit for bit the same."""
    changed = IDS.clone()
    changed[t] = (changed[t] + 1) % 7
    before, after = logits(IDS), logits(changed)
    assert torch.equal(before[:t], after[:t])
    if t < len(IDS) - 1:
        assert not torch.equal(before[t:], after[t:])


def test_a_leak_of_one_character_would_be_seen():
    """Learning from a stretch before it is scored is what the test above must catch."""

    def leaking(model, ids, how):
        for first in range(0, len(ids) - 1, how.every):
            targets_S = ids[first + 1 : first + 1 + how.every]
            inputs_S = ids[first : first + how.every][: len(targets_S)]
            loss = functional.cross_entropy(model(inputs_S[None])[0][0], targets_S)
            weights = list(model.parameters())
            adaptive._descend(weights, torch.autograd.grad(loss, weights), how)
            yield model(inputs_S[None])[0][0].detach(), targets_S

    changed = IDS.clone()
    changed[23] = (changed[23] + 1) % 7
    assert not torch.equal(logits(IDS, of=leaking)[:23], logits(changed, of=leaking)[:23])


def test_a_step_of_nothing_is_streaming():
    how = Adaptive(every=5, learning_rate=1e-30, clip=1.0)
    nats, right = adaptive.adaptive(fresh(), IDS, how)
    expected, correct = evaluation.streaming(fresh(), IDS)
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(right, correct)


def test_one_step_by_hand():
    """Bigram logits of a row fall by the probabilities and rise at the target."""
    model = fresh("bigram")
    table = model.logits.weight.detach().clone()
    list(
        adaptive.stretches(
            model, torch.tensor([2, 4]), Adaptive(every=1, learning_rate=0.5, clip=100.0)
        )
    )
    gradient = torch.softmax(table[2], -1)
    gradient[4] -= 1
    table[2] -= 0.5 * gradient
    torch.testing.assert_close(model.logits.weight.detach(), table)


def test_a_gradient_is_clipped_to_its_norm():
    weight = torch.nn.Parameter(torch.zeros(2))
    adaptive._descend([weight], (torch.tensor([30.0, 40.0]),), HOW)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))


def test_a_text_that_repeats_itself_is_learned():
    ids = torch.tensor([0, 1, 2, 3] * 100)
    static, _ = evaluation.streaming(fresh(), ids)
    nats, _ = adaptive.adaptive(fresh(), ids, HOW)
    assert nats[-100:].mean() < 0.5 * static[-100:].mean()


@pytest.mark.parametrize("name", ["gpt", "mixture", "rnn", "mlp"])
def test_models_of_every_kind_adapt(name):
    nats, _ = adaptive.adaptive(fresh(name), IDS, HOW)
    assert torch.isfinite(nats).all()
    assert len(nats) == len(IDS) - 1


def test_counts_cannot_adapt_and_a_step_too_far_is_named():
    with pytest.raises(UserError, match="no weights that gradients could change"):
        adaptive.adaptive(fresh("kneser_ney"), IDS, HOW)
    with pytest.raises(UserError, match=r"its loss is (nan|inf) at character \d+: lower"):
        adaptive.adaptive(fresh(), IDS, Adaptive(every=1, learning_rate=1e38, clip=1e38))
