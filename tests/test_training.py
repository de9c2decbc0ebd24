import math

import pytest
import torch
from torch.nn import functional

from charlm import entropy, models, training
from charlm.errors import UserError
from charlm.models.base import LanguageModel
from tests.workspace import at_scale

SMOKE = at_scale("smoke")
VOCABULARY = 65


def budget(name="bigram", **changes):
    return SMOKE.model(name).training.model_copy(update=changes)


def build(name, training_budget):
    entry = SMOKE.model(name)
    return models.build(entry.model, VOCABULARY, training_budget.block, entry.architecture)


def test_learning_rate_schedules():
    plan = budget(steps=100, warmup=10, learning_rate=1.0, decay="linear", decay_after=0.5)
    rates = [training.learning_rate_at(step, plan) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)
    cosine = plan.model_copy(update={"decay": "cosine", "final_learning_rate": 0.2})
    assert training.learning_rate_at(50, cosine) == 1.0
    assert training.learning_rate_at(75, cosine) == pytest.approx(0.6)
    constant = plan.model_copy(update={"decay": "none"})
    assert training.learning_rate_at(99, constant) == 1.0


def test_nanogpts_schedule(settings):
    """Its get_lr, written as there: warm-up over it / (warmup + 1), cosine to min_lr."""
    plan = settings.model("gpt").training
    for step in (0, 50, 99, 100, 101, 1000, 1999):
        if step < 100:
            expected = 1e-3 * (step + 1) / 101
        else:
            ratio = (step - 100) / (2000 - 100)
            expected = 1e-4 + 0.5 * (1 + math.cos(math.pi * ratio)) * (1e-3 - 1e-4)
        assert training.learning_rate_at(step, plan) == pytest.approx(expected)


def test_only_matrices_decay():
    plan = budget("gpt", weight_decay=0.1)
    groups = training.make_optimizer(build("gpt", plan), plan).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])


@pytest.mark.parametrize("name", SMOKE.models)
def test_the_same_seeds_give_the_same_bytes(name, corpus_ids):
    plan = budget(name, steps=6, validate_every=3, validation_characters=256)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = build(name, plan)
        text_N = corpus_ids["train"][:20_000]
        curve = training.fit(model, text_N, corpus_ids["validation"], plan, 2)
        runs.append((curve, model.state_dict()))
    assert runs[0][0] == runs[1][0]
    for key, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][key]), key


def test_a_golden_step(corpus_ids):
    """One SGD step of the bigram, worked out by hand from its loss's gradient, p - onehot."""
    plan = budget(optimizer="sgd", learning_rate=1.0, weight_decay=0.0, steps=1, batch=1, block=8)
    model = build("bigram", plan)
    before_VV = model.logits.weight.detach().clone()
    text_N = corpus_ids["train"][:9]
    training.fit(model, text_N, corpus_ids["validation"], plan, 0)
    expected_VV = before_VV.clone()
    for symbol, target in zip(text_N[:-1].tolist(), text_N[1:].tolist(), strict=True):
        gradient_V = torch.softmax(before_VV[symbol], 0)
        gradient_V[target] -= 1
        expected_VV[symbol] -= gradient_V / 8
    torch.testing.assert_close(model.logits.weight.detach(), expected_VV)


def test_a_trained_bigram_meets_the_conditional_entropy():
    """Two ways to one number: the loss of the fitted table and the count's H(X | 1 previous)."""
    text_N = torch.randint(3, (200,))
    plan = budget(learning_rate=0.05, weight_decay=0.0, steps=600, batch=1, block=199)
    model = models.build("bigram", 3, 1, {})
    training.fit(model, text_N, text_N, plan, 0)
    nats = functional.cross_entropy(model(text_N[None, :-1])[0][0], text_N[1:]).item()
    expected = entropy.statistics(text_N.numpy(), [2], 1.0)[0].conditional_bits_per_char
    assert nats / math.log(2) == pytest.approx(expected, abs=1e-6)


def test_the_curve_is_the_mean_over_all_characters_since_the_last_point(corpus_ids):
    plan = budget(learning_rate=1e-12, weight_decay=0.0, steps=7, validate_every=4)
    points = []
    model = build("bigram", plan)
    curve = training.fit(
        model, corpus_ids["train"], corpus_ids["validation"], plan, 3, points.append
    )
    assert points == curve
    assert [point.step for point in curve] == [0, 4, 7]
    assert [point.characters for point in curve] == [0, 4 * 256, 7 * 256]
    # With nothing learned the points are means of losses of the very same model.
    generator = torch.Generator().manual_seed(3)
    stream = training.batches.windows(corpus_ids["train"], 32, 8, generator)
    losses = []
    for _ in range(7):
        batch = next(stream)
        logits_BTV, _ = model(batch.inputs_BT)
        losses.append(
            functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten()).item()
        )
    assert curve[0].train_nats == pytest.approx(losses[0], rel=1e-6)
    assert curve[1].train_nats == pytest.approx(sum(losses[:4]) / 4, rel=1e-6)
    assert curve[2].train_nats == pytest.approx(sum(losses[4:]) / 3, rel=1e-6)


class Recorder(LanguageModel):
    """Notes the state that it is given, and says how often it was called as the next."""

    context_length = None

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(VOCABULARY))
        self.states = []

    def forward(self, ids_BT, state=None):
        if self.training:
            self.states.append(None if state is None else (state.item(), state.requires_grad))
        count = torch.zeros(()) if state is None else state
        return self.weight.expand(*ids_BT.shape, -1), count + 1 + 0 * self.weight.sum()


def test_streams_carry_a_detached_state_and_windows_none(corpus_ids):
    text_N = corpus_ids["train"][:200]
    for kind, expected in (
        ("streams", [None, (1, False), (2, False), None, (1, False)]),
        ("windows", [None] * 5),
    ):
        model = Recorder()
        plan = budget(batches=kind, batch=4, block=15, steps=5)
        training.fit(model, text_N, corpus_ids["validation"], plan, 0)
        assert model.states == expected


def test_progress_adds_up(corpus_ids):
    plan = budget(steps=25, validate_every=10)
    seen = []
    training.fit(
        build("bigram", plan),
        corpus_ids["train"],
        corpus_ids["validation"],
        plan,
        0,
        advance=lambda steps, nats: seen.append((steps, nats)),
    )
    assert sum(steps for steps, _ in seen) == 25
    assert all(3 < nats < 6 for _, nats in seen)


def test_a_loss_that_is_no_number_stops_at_once(corpus_ids):
    plan = budget("mlp", learning_rate=1e30, steps=200)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+ \(learning rate 1e\+30\)"):
        training.fit(build("mlp", plan), corpus_ids["train"], corpus_ids["validation"], plan, 0)


def test_training_stops_below_a_loss(corpus_ids):
    plan = budget(steps=200, validate_every=50, stop_below=1e9)
    model = build("bigram", plan)
    curve = training.fit(model, corpus_ids["train"], corpus_ids["validation"], plan, 0)
    assert [point.step for point in curve] == [0, 5]
    assert curve[-1].characters == 5 * 32 * 8
    assert not model.training


def test_a_full_batch_is_the_mean_over_all_pairs(corpus_ids):
    plan = budget("perceptron_full_batch", steps=1, learning_rate=1e-12)
    text_N = corpus_ids["train"][:5000]
    model = build("perceptron_full_batch", plan)
    curve = training.fit(model, text_N, corpus_ids["validation"], plan, 0)
    logits_BTV, _ = model(text_N[None, :-1].long())
    whole = functional.cross_entropy(logits_BTV[0], text_N[1:].long()).item()
    assert curve[0].train_nats == pytest.approx(whole, rel=1e-5)
    assert curve[1].characters == 4999
