import math

import torch

from charlm.evaluation import loss
from charlm.evaluation.learning import CHARACTERS, MOST, Learning
from tests.zoo import build

IDS = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))


def fresh(seed):
    torch.manual_seed(seed)
    return build("gpt", 7, 8)[0]


def test_it_keeps_the_bits_of_the_beginning(tmp_path):
    learning = Learning(IDS, tmp_path / "kept.json", 0)
    for step in (0, 10):
        learning.see(fresh(step), step)
    found = learning.content
    assert found["steps"] == [0, 10]
    for step, bits in zip((0, 10), found["bits"], strict=True):
        nats_N, _ = loss.streaming(fresh(step).eval(), IDS)
        expected = (nats_N / math.log(2)).tolist()
        assert all(abs(one - other) <= 0.051 for one, other in zip(bits, expected, strict=True))
    assert learning.seconds > 0


def test_points_are_further_and_further_apart(tmp_path):
    learning, model = Learning(IDS, tmp_path / "kept.json", 0), fresh(1)
    for step in range(0, 101, 10):
        learning.see(model, step)
    assert learning.content["steps"] == [0, 10, 20, 30, 50, 70, 100]


def test_a_model_stays_in_its_mode_and_draws_nothing(tmp_path):
    model = fresh(1).train()
    before = torch.get_rng_state()
    Learning(IDS, tmp_path / "kept.json", 0).see(model, 0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_that_goes_on_ends_with_the_points_of_one_left_alone(tmp_path):
    """Its model is not any more what it was at its earlier points, which it meets again."""
    models = {step: fresh(step) for step in (0, 10, 20, 30)}
    alone = Learning(IDS, tmp_path / "alone.json", 0)
    for step, model in models.items():
        alone.see(model, step)
    file = tmp_path / "kept.json"
    stopped = Learning(IDS, file, 0)
    for step in (0, 10):
        stopped.see(models[step], step)
    again = Learning(IDS, file, resumed=15)
    for step in (0, 10):
        again.see(models[30], step)
    for step in (20, 30):
        again.see(models[step], step)
    assert again.content == alone.content
    assert Learning(IDS, file, 0).points == {}
    again.remove()
    again.remove()
    # Where the file was lost, nothing is made up.
    lost = Learning(IDS, file, resumed=15)
    lost.see(models[30], 10)
    assert lost.content == {"steps": [], "bits": []}


def test_a_point_seen_after_the_checkpoint_is_not_seen_again(tmp_path):
    """The training was stopped behind a point, but its checkpoint is older."""
    file = tmp_path / "kept.json"
    Learning(IDS, file, 0).see(fresh(1), 10)
    again = Learning(IDS, file, resumed=5)
    again.see(fresh(1), 10)
    assert again.content["steps"] == [10]


def test_long_texts_are_cut_and_losses_without_a_number_too(tmp_path):
    learning = Learning(torch.zeros(CHARACTERS + 100).long(), tmp_path / "kept.json", 0)
    model, _ = build("bigram", 7, 8)
    with torch.no_grad():
        model.logits.weight.fill_(math.nan)
    learning.see(model, 0)
    assert learning.points[0] == [MOST] * CHARACTERS
