from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm import models, sampling
from tests.zoo import SMOKE, build

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def probs(temperature=1.0, top_k=None, top_p=None, logits=LOGITS):
    return sampling.restrict(logits, temperature, top_k, top_p)[0].tolist()


def test_temperature_divides_the_logits():
    assert probs() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    squares = [0.25, 0.09, 0.0225, 0.0025]
    assert probs(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])


def test_temperature_zero_is_greedy_and_a_tiny_one_does_not_overflow():
    assert probs(temperature=0) == [1, 0, 0, 0]
    assert probs(temperature=1e-300) == [1, 0, 0, 0]


def test_top_k_keeps_the_likeliest():
    assert probs(top_k=2) == pytest.approx([0.625, 0.375, 0, 0])
    assert probs(top_k=1) == [1, 0, 0, 0]
    assert probs(top_k=99) == pytest.approx(probs())


def test_top_p_keeps_the_fewest_that_reach_it():
    assert probs(top_p=0.5) == [1, 0, 0, 0]
    assert probs(top_p=0.51) == pytest.approx([0.625, 0.375, 0, 0])
    assert probs(top_p=1.0) == pytest.approx(probs())


def test_of_equals_the_lower_id_stays():
    assert probs(top_k=2, logits=torch.zeros(1, 4)) == [0.5, 0.5, 0, 0]


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=20),
    st.floats(0.01, 10),
    st.none() | st.integers(1, 25),
    st.none() | st.floats(0.01, 1),
)
def test_what_is_left_is_a_distribution(logits, temperature, top_k, top_p):
    kept = sampling.restrict(torch.tensor([logits]), temperature, top_k, top_p)[0]
    assert kept.sum().item() == pytest.approx(1)
    assert (kept >= 0).all()
    # The likeliest stays; of logits that differ by less than rounding either may be it.
    assert torch.tensor(logits)[kept > 0].max().item() == pytest.approx(max(logits), abs=1e-5)
    if top_k is not None:
        assert (kept > 0).sum() <= top_k


def draw(name="lstm", prompt=(1, 2, 3), length=40, samples=2, seed=0, **options):
    torch.manual_seed(5)
    model, _ = build(name, 9)
    generator = torch.Generator().manual_seed(seed)
    drawn = sampling.draw(model, torch.tensor(prompt), length, samples, generator, **options)
    return torch.stack(list(drawn), dim=1)


@pytest.mark.parametrize("name", models.names())
def test_a_seed_fixes_the_text(name):
    assert torch.equal(draw(name), draw(name))
    assert not torch.equal(draw(name), draw(name, seed=1))
    assert draw(name).shape == (2, 40)


@pytest.mark.parametrize("name", models.names())
def test_greedy_drawing_equals_recomputing_from_the_whole_text(name):
    """The carried state loses nothing (within gpt's block, where its context is everything)."""
    torch.manual_seed(5)
    model, block = build(name, 9)
    length = min(20, block - 3) if name == "gpt" else 20
    drawn = draw(name, length=length, samples=1, temperature=0)[0].tolist()
    text = [1, 2, 3]
    for expected in drawn:
        logits_BTV, _ = model(torch.tensor([text]))
        assert logits_BTV[0, -1].argmax().item() == expected
        text.append(expected)


def test_a_prompt_longer_than_the_block_will_do():
    assert draw("gpt", prompt=[1, 2] * 60, length=5).shape == (2, 5)


def test_drawn_frequencies_are_the_models():
    """With top-k 5 only the five likeliest symbols are drawn, as often as they should be."""
    model = models.build("bigram", 8, 8, {})
    with torch.no_grad():
        model.logits.weight.copy_(torch.arange(8.0).expand(8, 8) / 2)
    generator = torch.Generator().manual_seed(0)
    drawn = sampling.draw(model.eval(), torch.tensor([0]), 20, 1000, generator, top_k=5)
    counts = Counter(torch.stack(list(drawn)).flatten().tolist())
    assert set(counts) == {3, 4, 5, 6, 7}
    expected = torch.softmax(torch.arange(3.0, 8.0) / 2, 0).tolist()
    for symbol, share in zip(range(3, 8), expected, strict=True):
        # 20,000 draws: five standard deviations.
        assert counts[symbol] / 20_000 == pytest.approx(share, abs=5 * (share / 20_000) ** 0.5)


def test_outside_of_the_five_best_nothing_is_ever_drawn():
    model = models.build("bigram", 30, 8, {}).eval()
    best = model.logits.weight.topk(5, dim=1).indices.tolist()
    drawn = sampling.draw(
        model, torch.tensor([3]), 200, 50, torch.Generator().manual_seed(0), top_k=5
    )
    before = [3] * 50
    pairs = set()
    for ids_B in drawn:
        for previous, symbol in zip(before, ids_B.tolist(), strict=True):
            assert symbol in best[previous]
            pairs.add((previous, symbol))
        before = ids_B.tolist()
    assert len(pairs) > 100


def test_a_cropped_context_forgets_what_is_before_it():
    """A recurrent model that reads the last 4 again each time, against doing so by hand."""
    architecture = SMOKE.run("lmnet").architecture
    model = models.build("lmnet", 9, 8, architecture).eval()
    prompt = torch.tensor([1, 2, 3, 4, 5, 6])
    drawn = sampling.draw(
        model, prompt, 20, 1, torch.Generator().manual_seed(0), temperature=0, context=4
    )
    text = prompt.tolist()
    for ids_B in drawn:
        with torch.no_grad():
            logits_BTV, _ = model(torch.tensor([text[-4:]]))
        assert ids_B.item() == logits_BTV[0, -1].argmax().item()
        text.append(ids_B.item())
