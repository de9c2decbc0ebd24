import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from charlm import ladder

X = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(1))


def test_the_first_three_rungs_are_one():
    loop, matrix, softmax = (
        rung(X) for rung in (ladder.mean_by_loop, ladder.mean_by_matrix, ladder.mean_by_softmax)
    )
    torch.testing.assert_close(loop, matrix)
    torch.testing.assert_close(loop, softmax)
    torch.testing.assert_close(loop[:, 2], X[:, :3].mean(dim=1))


def test_a_head_with_equal_scores_is_the_mean_of_its_values():
    head = ladder.Head(6, 4)
    torch.nn.init.zeros_(head.query.weight)
    torch.testing.assert_close(head(X), ladder.mean_by_loop(head.value(X)))


def test_a_head_is_scaled_dot_product_attention():
    for causal in (True, False):
        head = ladder.Head(6, 4, causal)
        expected = functional.scaled_dot_product_attention(
            head.query(X), head.key(X), head.value(X), is_causal=causal
        )
        torch.testing.assert_close(head(X), expected)


def test_a_decoder_sees_the_past_an_encoder_everything_cross_attention_the_source():
    source = torch.randn(2, 5, 6)
    decoder, encoder = ladder.Head(6, 4), ladder.Head(6, 4, causal=False)
    assert ((decoder.weights(X) > 0) == torch.ones(8, 8, dtype=torch.bool).tril()).all()
    assert (encoder.weights(X) > 0).all()
    across = decoder.weights(X, source)
    assert across.shape == (2, 8, 5)
    assert (across > 0).all()
    for weights in (decoder.weights(X), encoder.weights(X), across):
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8))
    assert decoder(X, source).shape == (2, 8, 4)


def test_scaling_keeps_the_variance_of_scores_near_one():
    """The document has 0.86 from a few values; these are 131,072."""
    generator = torch.Generator().manual_seed(0)
    assert ladder.score_variance(16, True, generator) == pytest.approx(1, abs=0.1)
    assert ladder.score_variance(16, False, generator) == pytest.approx(16, abs=1.6)


@pytest.mark.parametrize(
    ("factor", "published"),
    [
        (1, [0.1925, 0.1426, 0.2351, 0.1426, 0.2872]),
        (8, [0.0326, 0.0030, 0.1615, 0.0030, 0.8000]),
    ],
)
def test_the_documents_softmax(factor, published):
    probs = torch.softmax(torch.tensor(ladder.PUBLISHED_LOGITS) * factor, dim=0)
    assert [round(p, 4) for p in probs.tolist()] == published


def test_the_command_shows_it():
    output = CliRunner().invoke(ladder.main).output
    assert "(3) masked softmax" in output
    assert "0.1925, 0.1426, 0.2351, 0.1426, 0.2872" in output
    assert "0.0326, 0.0030, 0.1615, 0.0030, 0.8000" in output
    assert "masked (decoder)               3\n" in output
    assert "unmasked (encoder)             256\n" in output
