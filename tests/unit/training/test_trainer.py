import copy
import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from charlm import models
from charlm.entropy import counts_of_counts, estimators
from charlm.errors import UserError
from charlm.models.base import LanguageModel, detach
from charlm.training import activations, trainer
from charlm.training.optimizer import hidden_matrices, learning_rate_at, make_optimizer
from tests.workspace import PROJECT, at_scale
from tests.zoo import BY_STEPS, fit

SMOKE = at_scale("smoke")
VOCABULARY = 65


def training(name="bigram", **changes):
    return SMOKE.run(name).training.model_copy(update=changes)


def build(name, plan):
    entry = SMOKE.run(name)
    return models.build(entry.model, VOCABULARY, plan.block, entry.architecture)


def test_learning_rate_schedules():
    plan = training(steps=100, warmup=10, learning_rate=1.0, decay="linear", decay_after=0.5)
    rates = [learning_rate_at(step, plan.steps, plan) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)
    cosine = plan.model_copy(update={"decay": "cosine", "final_learning_rate": 0.2})
    assert learning_rate_at(50, cosine.steps, cosine) == 1.0
    assert learning_rate_at(75, cosine.steps, cosine) == pytest.approx(0.6)
    constant = plan.model_copy(update={"decay": "none"})
    assert learning_rate_at(99, constant.steps, constant) == 1.0


def test_nanogpts_schedule(settings):
    """Its get_lr, written as there: warm-up over it / (warmup + 1), cosine to min_lr."""
    plan = settings.run("gpt").training
    for step in (0, 50, 99, 100, 101, 1000, 1999):
        if step < 100:
            expected = 1e-3 * (step + 1) / 101
        else:
            ratio = (step - 100) / (2000 - 100)
            expected = 1e-4 + 0.5 * (1 + math.cos(math.pi * ratio)) * (1e-3 - 1e-4)
        assert learning_rate_at(step, plan.steps, plan) == pytest.approx(expected)


def test_only_matrices_decay():
    plan = training("gpt", weight_decay=0.1)
    groups = make_optimizer(build("gpt", plan), plan).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])


def test_bfloat16_is_of_products_alone_and_float32_where_it_is_not_native(monkeypatch):
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    cpu = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda n=native: n)
        with trainer.arithmetic("bfloat16", cpu):
            assert (left @ right).dtype == (torch.bfloat16 if native else torch.float32)
            assert (left + right).dtype == torch.float32
        with trainer.arithmetic("float32", cpu):
            assert (left @ right).dtype == torch.float32


@pytest.mark.parametrize("name", BY_STEPS)
def test_the_same_seeds_give_the_same_bytes(name, corpus_ids):
    plan = training(name, steps=6, validate_every=3, validation_characters=256)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = build(name, plan)
        text_N = corpus_ids["train"][:20_000]
        features_NKV = model.prepare(text_N)
        held_N = corpus_ids["validation"]
        curve = fit(model, text_N, held_N, plan, 2, features_NKV=features_NKV)
        runs.append((curve, model.state_dict()))
    assert runs[0][0] == runs[1][0]
    for key, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][key]), key


def test_a_golden_step(corpus_ids):
    """One SGD step of the bigram, worked out by hand from its loss's gradient, p - onehot."""
    plan = training(optimizer="sgd", learning_rate=1.0, weight_decay=0.0, steps=1, batch=1, block=8)
    model = build("bigram", plan)
    before_VV = model.logits.weight.detach().clone()
    text_N = corpus_ids["train"][:9]
    fit(model, text_N, corpus_ids["validation"], plan, 0)
    expected_VV = before_VV.clone()
    for symbol, target in zip(text_N[:-1].tolist(), text_N[1:].tolist(), strict=True):
        gradient_V = torch.softmax(before_VV[symbol], 0)
        gradient_V[target] -= 1
        expected_VV[symbol] -= gradient_V / 8
    torch.testing.assert_close(model.logits.weight.detach(), expected_VV)


def test_a_trained_bigram_meets_the_conditional_entropy():
    """Two ways to one number: the loss of the fitted table and the count's H(X | 1 previous)."""
    text_N = torch.randint(3, (200,))
    plan = training(learning_rate=0.05, weight_decay=0.0, steps=600, batch=1, block=199)
    model = models.build("bigram", 3, 1, {})
    fit(model, text_N, text_N, plan, 0)
    nats = functional.cross_entropy(model(text_N[None, :-1])[0][0], text_N[1:]).item()
    (pairs,) = estimators.statistics(counts_of_counts.in_memory(text_N.numpy(), 3, [2]), 1.0)
    expected = pairs.estimates["plug_in"].conditional_bits_per_char
    assert nats / math.log(2) == pytest.approx(expected, abs=1e-6)


def test_the_curve_is_the_mean_over_all_characters_since_the_last_point(corpus_ids):
    plan = training(learning_rate=1e-12, weight_decay=0.0, steps=7, validate_every=4)
    points = []
    model = build("bigram", plan)
    curve = fit(model, corpus_ids["train"], corpus_ids["validation"], plan, 3, points.append)
    assert points == curve
    assert [point.step for point in curve] == [0, 4, 7]
    assert [point.characters for point in curve] == [0, 4 * 256, 7 * 256]
    # With nothing learned the points are means of losses of the very same model.
    generator = torch.Generator().manual_seed(3)
    stream = trainer.batches.windows(corpus_ids["train"], 32, 8, generator)
    losses = []
    for _ in range(7):
        batch = next(stream)
        logits_BTV, _ = model(batch.inputs_BT)
        losses.append(
            functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten()).item()
        )
    assert curve[0].train_nats == pytest.approx(losses[0], rel=1e-6)
    batch_nats = [point.batch_nats for point in curve]
    assert batch_nats == pytest.approx([losses[0], losses[3], losses[6]], rel=1e-6)
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
        plan = training(batches=kind, batch=4, block=15, steps=5)
        fit(model, text_N, corpus_ids["validation"], plan, 0)
        assert model.states == expected


def test_progress_adds_up(corpus_ids):
    plan = training(steps=25, validate_every=10)
    seen = []
    fit(
        build("bigram", plan),
        corpus_ids["train"],
        corpus_ids["validation"],
        plan,
        0,
        on_steps=lambda steps, nats: seen.append((steps, nats)),
    )
    assert sum(steps for steps, _ in seen) == 25
    assert all(3 < nats < 6 for _, nats in seen)


def test_a_loss_that_is_no_number_stops_at_once(corpus_ids):
    plan = training("mlp", learning_rate=1e30, steps=200)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+ \(learning rate 1e\+30\)"):
        fit(build("mlp", plan), corpus_ids["train"], corpus_ids["validation"], plan, 0)


def test_a_last_step_that_breaks_the_weights_is_found(corpus_ids):
    """The training loss of a step is of before its update."""
    plan = training("mlp", learning_rate=1e38, steps=1)
    with pytest.raises(UserError, match=r"the validation loss is (nan|inf) at step 1 \("):
        fit(build("mlp", plan), corpus_ids["train"], corpus_ids["validation"], plan, 0)


def test_training_does_not_load_the_compiler():
    """Nothing is compiled, and the import would double what a stage takes to start."""
    code = (
        "import sys, torch; from charlm import models; from tests.zoo import fit;"
        "from tests.workspace import at_scale;"
        "from charlm.models.base import start_torch; start_torch();"
        "model = models.build('bigram', 65, 8, {});"
        "plan = at_scale('smoke').run('bigram').training.model_copy(update={'clip': 1.0});"
        "text = torch.randint(65, (5000,)); fit(model, text, text, plan, 0);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("name", ["mlp", "rnn", "lstm"])
def test_the_optimizers_are_torchs_own(name, corpus_ids):
    plan = training(name, steps=5, validate_every=5, validation_characters=256, clip=None)
    plan = plan.model_copy(update={"precision": "float32"})
    torch.manual_seed(1)
    ours = build(name, plan)
    theirs = copy.deepcopy(ours).train()
    fit(ours, corpus_ids["train"][:9000], corpus_ids["validation"], plan, 2)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    settings = {"lr": plan.learning_rate, "weight_decay": 0.0}
    if plan.optimizer != "sgd":
        settings |= {"betas": tuple(plan.betas), "fused": True}
    optimizer = kind[plan.optimizer](
        [
            {"params": [p for p in theirs.parameters() if p.dim() > 1]},
            {"params": [p for p in theirs.parameters() if p.dim() <= 1]},
        ],
        **settings,
    )
    optimizer.param_groups[0]["weight_decay"] = plan.weight_decay
    torch.manual_seed(2)
    generator = torch.Generator().manual_seed(2)
    make = trainer.batches.KINDS[plan.batches]
    stream = make(corpus_ids["train"][:9000], plan.batch, plan.block, generator)
    state = None
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, 5, plan)
        inputs_BT, targets_BT, fresh, _ = next(stream)
        carried = state if plan.batches == "streams" and not fresh else None
        logits_BTV, state = theirs(inputs_BT, carried)
        state = detach(state)
        optimizer.zero_grad()
        functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten()).backward()
        optimizer.step()
    for ours_P, theirs_P in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours_P, theirs_P)


def test_muon_moves_hidden_matrices_and_adam_the_rest(corpus_ids):
    plan = training("transformer", steps=3, validate_every=3, validation_characters=256)
    plan = plan.model_copy(update={"optimizer": "muon", "clip": None, "warmup": 0})
    ours = build("transformer", plan)
    theirs = copy.deepcopy(ours)
    optimizer = make_optimizer(ours, plan)
    moved = {id(p) for p in hidden_matrices(ours)}
    names = {key for key, p in ours.named_parameters() if id(p) in moved}
    assert all(".weight" in key and "layers." in key and "norm" not in key for key in names)
    assert len(names) == 2 * 4
    same = dict(theirs.named_parameters())
    muon = torch.optim.Muon(
        [same[key] for key in names],
        lr=plan.learning_rate,
        weight_decay=plan.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    ids_BT = corpus_ids["train"][: 2 * 33].view(2, 33).long()
    for model in (ours, theirs):
        logits_BTV, _ = model(ids_BT[:, :-1])
        functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten()).backward()
    with torch.no_grad():
        optimizer.step()
        muon.step()
    for key, parameter in ours.named_parameters():
        assert torch.equal(parameter, same[key]) == (key in names), key


def test_momentum_is_torchs_own(corpus_ids):
    plan = training("perceptron", steps=2, momentum=0.9)
    optimizer = make_optimizer(build("perceptron", plan), plan)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_an_average_of_the_weights_is_what_is_left(corpus_ids):
    """With a decay of 1/2: half of the last weights, a quarter of those before, and so on."""
    changes = {"steps": 3, "validate_every": 3, "validation_characters": 256}
    plan = training("bigram", **changes)
    weights = []
    for steps in (1, 2, 3):
        torch.manual_seed(1)
        model = build("bigram", plan)
        few = plan.model_copy(update={"steps": steps, "validate_every": 1})
        fit(model, corpus_ids["train"][:9000], corpus_ids["validation"], few, 2)
        weights.append(next(model.parameters()).detach())
    torch.manual_seed(1)
    averaged = build("bigram", plan)
    plan = plan.model_copy(update={"weight_averaging": 0.5})
    curve = fit(averaged, corpus_ids["train"][:9000], corpus_ids["validation"], plan, 2)
    expected = weights[2] / 2 + weights[1] / 4 + weights[0] / 4
    torch.testing.assert_close(next(averaged.parameters()).detach(), expected)
    # The curve is of what is left.
    ids, block = corpus_ids["validation"], plan.block
    assert curve[-1].validation_nats == trainer.estimate(averaged, ids, block, 256)


def test_epochs_are_passes_through_the_text(corpus_ids):
    """Document E's counts: 7 steps an epoch of its sonnets, 87 of tiny Shakespeare."""
    plan = training("rnn", batch=128, block=100, steps=None, epochs=300)
    assert plan.steps_on(94_081) == 2100
    assert plan.steps_on(1_115_394) == 26_100
    assert plan.steps_on(5) == 300
    assert training("perceptron_full_batch", steps=None, epochs=10).steps_on(1000) == 10
    with pytest.raises(UserError, match=r"warmup \(9\) must be below the 2 steps that 2 epochs"):
        training(batch=32, block=8, steps=None, epochs=2, warmup=9).steps_on(257)
    plan = training(batch=4, block=8, steps=None, epochs=3)
    text_N = corpus_ids["train"][:100]
    curve = fit(build("bigram", plan), text_N, corpus_ids["validation"], plan, 0)
    assert curve[-1].step == 9


def test_training_stops_below_a_loss(corpus_ids):
    plan = training(steps=200, validate_every=50, stop_below=1e9)
    model = build("bigram", plan)
    curve = fit(model, corpus_ids["train"], corpus_ids["validation"], plan, 0)
    assert [point.step for point in curve] == [0, 5]
    assert curve[-1].characters == 5 * 32 * 8
    assert not model.training


def test_a_full_batch_is_the_mean_over_all_pairs(corpus_ids):
    plan = training("perceptron_full_batch", steps=1, learning_rate=1e-12)
    text_N = corpus_ids["train"][:5000]
    model = build("perceptron_full_batch", plan)
    curve = fit(model, text_N, corpus_ids["validation"], plan, 0)
    logits_BTV, _ = model(text_N[None, :-1].long())
    whole = functional.cross_entropy(logits_BTV[0], text_N[1:].long()).item()
    assert curve[0].train_nats == pytest.approx(whole, rel=1e-5)
    assert curve[1].characters == 4999


@pytest.mark.parametrize(("name", "tolerance"), [("bigram", 0), ("lstm", 1e-4), ("gpt", 1e-5)])
def test_one_thread_and_two_agree(name, tolerance, corpus_ids):
    """Some sums are taken in another order: in rounding, and in nothing else."""
    entry = SMOKE.run(name)
    found = []
    for count in (1, 2):
        torch.manual_seed(1)
        model = models.build(entry.model, 65, entry.training.block, entry.architecture)
        plan = entry.training.model_copy(update={"steps": 20, "warmup": 0})
        torch.set_num_threads(count)
        try:
            fit(model, corpus_ids["train"], corpus_ids["validation"], plan, 2)
        finally:
            torch.set_num_threads(1)
        found.append(model.state_dict())
    first, second = found
    for key, tensor in first.items():
        assert (tensor - second[key]).abs().max() <= tolerance * tensor.abs().max(), key


def test_windows_of_a_text_that_float32_cannot_count_stay_within_it():
    model = build("bigram", training())
    text_N = torch.zeros(2**24 + 12, dtype=torch.uint8)
    assert trainer.estimate(model, text_N, 8, 16) > 0
    assert activations.statistics(model, text_N, 8)["nats_per_char"] > 0
