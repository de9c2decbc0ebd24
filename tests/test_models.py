"""What holds for every model of the zoo, and what each one's source says of it.

The zoo is every file of charlm.models at the sizes of scale smoke, so a new model is tested as
soon as its file and its params entry exist.
"""

import math

import pytest
import torch
from torch.nn import functional

from charlm import models, params
from charlm.errors import UserError
from charlm.models.base import detach
from tests.workspace import PROJECT, at_scale

SMOKE = at_scale("smoke")
VOCABULARY = 65


def build(name, vocabulary=VOCABULARY):
    entry = SMOKE.model(name)
    model = models.build(name, vocabulary, entry.training.block, entry.architecture)
    return model.eval(), entry.training.block


zoo = pytest.mark.parametrize("name", models.names())


def test_every_file_has_an_entry():
    assert set(models.names()) == set(params.load(PROJECT / "params.yaml").models)


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown model 'bigrm' \(allowed: bigram, "):
        models.architecture("bigrm")


@zoo
def test_logits_have_the_shape_of_the_interface(name):
    model, block = build(name)
    logits_BTV, _ = model(torch.randint(VOCABULARY, (3, block)))
    assert logits_BTV.shape == (3, block, VOCABULARY)
    assert model.parameter_count == sum(p.numel() for p in model.parameters())


@zoo
def test_causality(name):
    """Change character t, and no logit before t moves, while the one at t does."""
    model, block = build(name)
    ids_BT = torch.randint(VOCABULARY, (1, block))
    before_BTV, _ = model(ids_BT)
    for t in {0, block // 2, block - 1}:
        changed_BT = ids_BT.clone()
        changed_BT[0, t] = (changed_BT[0, t] + 1) % VOCABULARY
        after_BTV, _ = model(changed_BT)
        assert torch.equal(before_BTV[:, :t], after_BTV[:, :t])
        assert not torch.equal(before_BTV[:, t], after_BTV[:, t])


@zoo
def test_a_carried_state_equals_one_long_call(name):
    """Pieces with the state carried give what one call gives, however the text is cut."""
    model, block = build(name)
    length = 3 * block + 1
    ids_BT = torch.randint(VOCABULARY, (2, length))
    whole_BTV, _ = model(ids_BT)
    for piece in (1, 3, block, length):
        state, parts = None, []
        for some_BT in ids_BT.split(piece, dim=1):
            logits_BTV, state = model(some_BT, state)
            parts.append(logits_BTV)
        torch.testing.assert_close(torch.cat(parts, 1), whole_BTV, rtol=1e-4, atol=1e-5)


@zoo
def test_sequences_of_a_batch_do_not_meet(name):
    model, block = build(name)
    ids_BT = torch.randint(VOCABULARY, (3, block))
    together_BTV, _ = model(ids_BT)
    alone_BTV, _ = model(ids_BT[1:2])
    torch.testing.assert_close(together_BTV[1:2], alone_BTV, rtol=1e-4, atol=1e-5)


@zoo
def test_every_parameter_is_trained(name):
    model, block = build(name)
    ids_BT = torch.randint(VOCABULARY, (4, block))
    logits_BTV, _ = model(ids_BT)
    functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT.flatten()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@zoo
def test_any_vocabulary_will_do(name):
    model, block = build(name, vocabulary=2)
    logits_BTV, _ = model(torch.zeros(1, block, dtype=torch.long))
    assert logits_BTV.shape[-1] == 2


def full_size(name, scale="quick", vocabulary=VOCABULARY):
    entry = at_scale(scale).model(name)
    return models.build(name, vocabulary, entry.training.block, entry.architecture)


def test_parameter_counts():
    assert full_size("bigram").parameter_count == 65 * 65
    assert full_size("mlp").parameter_count == 65 * 128 + 128 + 128 * 65 + 65
    # nanoGPT reports 0.80 M and 10.65 M without the table of positions, as its get_num_params.
    cpu, gpu = full_size("gpt"), full_size("gpt", "full")
    assert cpu.parameter_count - 64 * 128 == 795_904
    assert gpu.parameter_count - 256 * 384 == 10_646_784


def test_gpt_starts_at_not_knowing():
    """Small initial weights: the first loss is ln 65 = 4.17, as nanoGPT's."""
    model = full_size("gpt")
    ids_BT = torch.randint(VOCABULARY, (8, 65))
    logits_BTV, _ = model(ids_BT[:, :-1])
    loss = functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


def test_gpt_initialisation():
    model = full_size("gpt")
    weights = dict(model.named_parameters())
    assert weights["embedding.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    residual = weights["layers.3.projection.weight"]
    assert residual.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.05)


def test_gpt_cache_equals_recomputation_until_the_block_is_full():
    model, block = build("gpt")
    ids_BT = torch.randint(VOCABULARY, (2, block))
    state = None
    for t in range(block):
        logits_BTV, state = model(ids_BT[:, t : t + 1], state)
        recomputed_BTV, _ = model(ids_BT[:, : t + 1])
        torch.testing.assert_close(logits_BTV[:, -1], recomputed_BTV[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [8, 7, 1])
def test_gpt_encodes_the_newer_half_again_when_the_block_is_full(block):
    """After `block` characters the context is the newer half, and grows to the block again."""
    entry = SMOKE.model("gpt")
    model = models.build("gpt", VOCABULARY, block, entry.architecture).eval()
    ids_BT = torch.randint(VOCABULARY, (1, 4 * block))
    start, state = 0, None
    for t in range(ids_BT.shape[1]):
        if t - start == block:
            start = t - block // 2
        logits_BTV, state = model(ids_BT[:, t : t + 1], state)
        expected_BTV, _ = model(ids_BT[:, start : t + 1])
        torch.testing.assert_close(logits_BTV[:, -1], expected_BTV[:, -1], rtol=1e-4, atol=1e-5)


def test_lstm_carries_hidden_and_cell_state():
    model, _ = build("lstm")
    _, (hidden, cell) = model(torch.randint(VOCABULARY, (3, 5)))
    width = SMOKE.model("lstm").architecture["hidden"]
    assert hidden.shape == cell.shape == (1, 3, width)


def test_detach_reaches_every_tensor_of_a_state():
    inner = torch.ones(1, requires_grad=True) * 2
    cut = detach((inner, (inner, None)))
    assert not cut[0].requires_grad
    assert not cut[1][0].requires_grad
    assert cut[1][1] is None
