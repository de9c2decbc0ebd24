import math

import pytest
import torch

from charlm import models
from charlm.training import activations
from tests.workspace import at_scale
from tests.zoo import BY_STEPS, build

SMOKE = at_scale("smoke")
QUICK = at_scale("quick")


def rows(name, text_N, settings=QUICK, symbols=65):
    entry = settings.run(name)
    model = models.build(entry.model, symbols, entry.training.block, entry.architecture)
    found = activations.statistics(model, text_N, entry.training.block)
    return model, found, {row["layer"]: row for row in found["layers"]}


@pytest.mark.parametrize("name", BY_STEPS)
def test_every_model_shows_its_flow_and_is_left_as_it_was(name, corpus_ids):
    entry = SMOKE.run(name)
    model = build(name, 65)[0].train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = activations.statistics(model, corpus_ids["train"], entry.training.block)
    layers = [row["layer"] for row in found["layers"]]
    assert layers[0] == "input"
    assert layers[-3:] == ["output", "predictions", "weights"]
    assert len(set(layers)) == len(layers)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    # One-hot characters and probabilities both have a mean of 1 / V.
    for row in (found["layers"][0], found["layers"][-2]):
        assert row["mean_abs"] == pytest.approx(1 / 65, rel=1e-5)


def test_the_statistics_are_those_of_the_pass(corpus_ids):
    """The perceptron by hand: its logits are rows of a table, its gradient is (p - onehot) / N."""
    text_N = corpus_ids["train"][: activations.CHARACTERS + 1]
    model, found, layers = rows("perceptron", text_N)
    inputs_N, targets_N = text_N[:-1].long(), text_N[1:].long()
    logits_NV = (model.weight_VV[inputs_N] + model.bias_V).detach().double()
    gradient_NV = torch.softmax(logits_NV, -1)
    gradient_NV[torch.arange(len(targets_N)), targets_N] -= 1
    gradient_NV /= len(targets_N)
    nats = torch.nn.functional.cross_entropy(logits_NV, targets_N).item()
    assert found["nats_per_char"] == pytest.approx(nats, rel=1e-5)
    output = layers["output"]
    assert output["mean_abs"] == pytest.approx(logits_NV.abs().mean().item(), rel=1e-5)
    assert output["sd"] == pytest.approx(logits_NV.std(correction=0).item(), rel=1e-5)
    assert output["gradient_mean_abs"] == pytest.approx(gradient_NV.abs().mean().item(), rel=1e-4)
    assert output["gradient_sd"] == pytest.approx(gradient_NV.std(correction=0).item(), rel=1e-4)
    assert output["first_values"] == pytest.approx(logits_NV[0, :5].tolist(), rel=1e-5)
    weights_V = torch.zeros(65, 65, dtype=torch.float64).index_add(0, inputs_N, gradient_NV)
    whole = torch.cat([weights_V.flatten(), gradient_NV.sum(0)])
    assert layers["weights"]["gradient_mean_abs"] == pytest.approx(
        whole.abs().mean().item(), rel=1e-4
    )


def test_why_normalised_weights_start_at_not_knowing(corpus_ids):
    _, normal, of_normal = rows("mlp", corpus_ids["train"])
    _, normalised, of_normalised = rows("mlp_normalized", corpus_ids["train"])
    assert normal["nats_per_char"] > 3 * math.log(65)
    assert normalised["nats_per_char"] == pytest.approx(math.log(65), abs=0.1)
    assert of_normal["output"]["mean_abs"] > 50 * of_normalised["output"]["mean_abs"]
    assert of_normal["hidden"]["kind"] == "GELU"


def test_a_recurrence_written_out_shows_its_hidden_states(corpus_ids):
    _, _, layers = rows("rnn", corpus_ids["train"], SMOKE)
    assert 0 < layers["hidden"]["mean_abs"] < 1
    assert "dropout" not in layers


def test_a_text_shorter_than_the_sample_will_do():
    _, found, _ = rows("lstm", torch.tensor([0, 1, 2, 1, 0]), SMOKE)
    assert math.isfinite(found["nats_per_char"])
