"""The architectures whose parts can be left out: what must hold whatever their parts are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from charlm import models, saved_model
from tests.workspace import at_scale

SYMBOLS, BLOCK = 7, 12
SMOKE = at_scale("smoke")
PARTS = {
    "transformer": [
        {},
        {"attention": "average"},
        {"scaled": False},
        {"positions": "none"},
        {"positions": "learned"},
        {"residual": False},
        {"norm": "none"},
        {"norm": "layer"},
        {"norm_place": "after"},
        {"mlp": "none"},
        {"mlp": "gelu"},
        {"mlp": "swiglu"},
        {"tied": True},
        {"layers": 5},
    ],
    "recurrent": [
        {},
        {"cell": "rnn"},
        {"cell": "gru"},
        {"pair_rows": 8},
        {"pair_rows": 100},
        {"layers": 2},
        {"forget_bias": 1.0},
    ],
    "mlp": [{"context": 1}, {"context": 2}, {"context": 5}],
    "perceptron": [{"input": "one_hot"}, {"input": "look_up"}],
}
parts = pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, all_ in PARTS.items() for change in all_]
)


def build(name, change):
    entry = SMOKE.models[name]
    sizes = dict(entry.architecture) | change
    torch.manual_seed(0)
    return models.build(name, SYMBOLS, BLOCK, sizes).eval()


@parts
def test_pieces_are_the_whole_and_nothing_looks_ahead(name, change):
    model = build(name, change)
    ids_BT = torch.randint(SYMBOLS, (2, 2 * BLOCK + 3))
    whole_BTV, _ = model(ids_BT)
    for piece in (1, 5, BLOCK):
        state, found = None, []
        for some_BT in ids_BT.split(piece, dim=1):
            logits_BTV, state = model(some_BT, state)
            found.append(logits_BTV)
        torch.testing.assert_close(torch.cat(found, 1), whole_BTV, rtol=1e-4, atol=1e-5)
    for t in (0, 3, BLOCK - 1):
        changed_BT = ids_BT.clone()
        changed_BT[:, t] = (changed_BT[:, t] + 1) % SYMBOLS
        after_BTV, _ = model(changed_BT)
        assert torch.equal(whole_BTV[:, :t], after_BTV[:, :t])
        assert not torch.equal(whole_BTV[:, t], after_BTV[:, t])


@parts
def test_every_weight_is_trained(name, change):
    model = build(name, change).train()
    ids_BT = torch.randint(SYMBOLS, (4, BLOCK))
    logits_BTV, _ = model(ids_BT)
    functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT.flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@parts
def test_what_is_saved_is_loaded(tmp_path, name, change):
    model = build(name, change)
    sizes = dict(SMOKE.models[name].architecture) | change
    config = saved_model.Config(name, BLOCK, "train", "abcdefg", sizes, {}, 1, "")
    saved_model.save(tmp_path, model, config)
    loaded, _ = saved_model.load(tmp_path, torch.device("cpu"))
    ids_BT = torch.randint(SYMBOLS, (2, BLOCK))
    assert torch.equal(model(ids_BT)[0], loaded(ids_BT)[0])


def test_a_context_of_an_mlp_is_a_product_of_one_hot_vectors():
    model = build("mlp", {"context": 3})
    ids_T = torch.tensor([4, 1, 6, 2, 0])
    logits_BTV, _ = model(ids_T[None])
    rows_TVC = functional.one_hot(torch.stack([ids_T[2:], ids_T[1:-1], ids_T[:-2]]), SYMBOLS)
    inputs_TR = rows_TVC.transpose(0, 1).flatten(1).float()
    hidden_TH = functional.gelu(inputs_TR @ model.weight1_VH + model.bias1_H)
    expected_TV = hidden_TH @ model.weight2_HV + model.bias2_V
    torch.testing.assert_close(logits_BTV[0, 2:], expected_TV)


def test_both_ways_to_read_a_character_are_one():
    ids_BT = torch.randint(SYMBOLS, (2, 5))
    one_hot, look_up = (build("perceptron", {"input": way}) for way in ("one_hot", "look_up"))
    assert torch.equal(one_hot(ids_BT)[0], look_up(ids_BT)[0])


def test_rotary_positions_tell_distances_alone():
    """The first layer's weights do not change if everything stands three places later."""
    from charlm.models.transformer import rotated

    query, key = torch.randn(1, 1, 6, 8), torch.randn(1, 1, 6, 8)
    scores = [rotated(query, s) @ rotated(key, s).transpose(2, 3) for s in (0, 3)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores[0], query @ key.transpose(2, 3))


def test_the_whole_transformer_is_gpt():
    """With nanoGPT's parts and the same weights it is charlm.models.gpt."""
    gpt = models.build(
        "gpt", SYMBOLS, BLOCK, {"layers": 2, "heads": 2, "width": 32, "dropout": 0.0, "bias": False}
    ).eval()
    change = {"positions": "learned", "norm": "layer", "mlp": "gelu", "tied": True}
    model = build("transformer", change)
    theirs = gpt.state_dict()
    renamed = {
        key.replace(".mlp.expand", ".expand").replace(".mlp.projection", ".projection"): key
        for key in model.state_dict()
        if key != "output.weight"
    }
    assert set(renamed) == set(theirs)
    state = {own: theirs[key] for key, own in renamed.items()}
    model.load_state_dict(state | {"output.weight": theirs["embedding.weight"]})
    ids_BT = torch.randint(SYMBOLS, (2, BLOCK))
    torch.testing.assert_close(model(ids_BT)[0], gpt(ids_BT)[0])


def test_forget_gates_begin_by_remembering():
    before, after = build("recurrent", {}), build("recurrent", {"forget_bias": 1.0})
    hidden = after.layers.hidden_size
    moved = after.layers.bias_ih_l0 - before.layers.bias_ih_l0
    assert moved[hidden : 2 * hidden].tolist() == pytest.approx([1.0] * hidden)
    assert moved.abs().sum().item() == pytest.approx(hidden)


def test_averages_weigh_all_the_same():
    model = build("transformer", {"attention": "average"})
    attention = model.layers[0].attention
    x_BTD = torch.randn(1, 4, 32)
    nn.init.eye_(attention.query_key_value.weight)
    nn.init.eye_(attention.projection.weight)
    out_BTD, _ = attention(x_BTD, 0, None)
    torch.testing.assert_close(out_BTD[0, 3], x_BTD[0].mean(0))
