import math

import torch

from charlm.evaluation import loss
from charlm.evaluation.learning import CHARACTERS, Learning
from tests.zoo import build

IDS = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))


def fresh(seed):
    torch.manual_seed(seed)
    return build("gpt", 7, 8)[0]


def test_it_keeps_the_bits_of_the_beginning_at_each_point(tmp_path):
    learning = Learning(IDS, tmp_path / "kept.json", resumed=False)
    for step in (0, 10):
        learning.see(fresh(step), step)
    found = learning.content([0, 10])
    assert found["steps"] == [0, 10]
    for step, bits in zip((0, 10), found["bits"], strict=True):
        nats_N, _ = loss.streaming(fresh(step).eval(), IDS)
        expected = (nats_N / math.log(2)).tolist()
        assert all(abs(one - other) <= 0.051 for one, other in zip(bits, expected, strict=True))


def test_a_model_stays_in_its_mode_and_draws_nothing(tmp_path):
    model = fresh(1).train()
    before = torch.get_rng_state()
    Learning(IDS, tmp_path / "kept.json", resumed=False).see(model, 0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_that_goes_on_keeps_what_was_seen_before(tmp_path):
    """Its model is not any more what it was at those points, which it meets again."""
    file = tmp_path / "kept.json"
    Learning(IDS, file, resumed=False).see(fresh(1), 0)
    first = Learning(IDS, file, resumed=False)
    first.see(fresh(1), 0)
    first.see(fresh(2), 5)
    again = Learning(IDS, file, resumed=True)
    again.see(fresh(3), 0)
    again.see(fresh(3), 5)
    again.see(fresh(4), 10)
    assert again.content([0, 5]) == first.content([0, 5])
    assert Learning(IDS, file, resumed=False).points == {}
    again.remove()
    again.remove()
    assert not file.exists()


def test_long_texts_are_cut(tmp_path):
    learning = Learning(torch.zeros(CHARACTERS + 100).long(), tmp_path / "kept.json", False)
    learning.see(build("bigram", 7, 8)[0], 0)
    assert len(learning.points[0]) == CHARACTERS
