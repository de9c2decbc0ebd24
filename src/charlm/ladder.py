"""The averaging ladder: from a double loop to one self-attention head, rung by rung.

    charlm ladder        shows that (1) = (2) = (3), what scaling does, and what each costs

(1) a double loop                                the mean of x_1 .. x_t, for each t
(2) a row-normalised triangle times x            the same mean as one matrix product
(3) softmax of a triangle of zeros, times x      the same again: equal scores make equal weights
(4) one self-attention head                      scores from the data: q_t . k_s / sqrt(K)

An encoder block is (4) without the mask; in cross-attention keys and values come from elsewhere.

Source: the "bigram to self-attention" document (document D of docs/published.md); Vaswani et al.,
"Attention Is All You Need", 2017.

Shapes: B batch, T time, S time of the source of keys and values, D width, K head size.
"""

import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from charlm.cli import one_line_errors

PUBLISHED_LOGITS = (0.1, -0.2, 0.3, -0.2, 0.5)
"""The document's example of what a large variance does to softmax; it takes 8 times them too."""


def mean_by_loop(x_BTD: Tensor) -> Tensor:
    """Rung (1): the mean of each prefix, one at a time."""
    means_BTD = torch.zeros_like(x_BTD)
    for b in range(x_BTD.shape[0]):
        for t in range(x_BTD.shape[1]):
            means_BTD[b, t] = x_BTD[b, : t + 1].mean(dim=0)
    return means_BTD


def mean_by_matrix(x_BTD: Tensor) -> Tensor:
    """Rung (2): a lower triangle of ones whose rows are divided by their sums, times x."""
    triangle_TT = x_BTD.new_ones(x_BTD.shape[1], x_BTD.shape[1]).tril()
    return (triangle_TT / triangle_TT.sum(dim=1, keepdim=True)) @ x_BTD


def mean_by_softmax(x_BTD: Tensor) -> Tensor:
    """Rung (3): softmax of zeros, minus infinity above the diagonal, times x."""
    return masked(x_BTD.new_zeros(x_BTD.shape[1], x_BTD.shape[1])).softmax(dim=-1) @ x_BTD


def masked(scores_TT: Tensor) -> Tensor:
    """Put minus infinity where a row would look ahead; leading dimensions stay."""
    ahead_TT = torch.ones_like(scores_TT, dtype=torch.bool).triu(1)
    return scores_TT.masked_fill(ahead_TT, float("-inf"))


class Head(nn.Module):
    """Rung (4): one attention head without biases.

    Args:
        width: D, of its inputs.
        head_size: K, of its output.
        causal: False gives an encoder's head, in which every character sees every other.
        scaled: whether scores are divided by sqrt(K), which keeps their variance near 1.
    """

    def __init__(self, width: int, head_size: int, causal: bool = True, scaled: bool = True):
        super().__init__()
        self.query = nn.Linear(width, head_size, bias=False)
        self.key = nn.Linear(width, head_size, bias=False)
        self.value = nn.Linear(width, head_size, bias=False)
        self.causal = causal
        self.scale = head_size**-0.5 if scaled else 1.0

    def weights(self, x_BTD: Tensor, source_BSD: Tensor | None = None) -> Tensor:
        """Return how much each of T characters takes of each of S, B x T x S; rows sum to 1.

        Args:
            x_BTD: what the queries are made of.
            source_BSD: what the keys are made of; None means x itself (self-attention), anything
                else is cross-attention, which is never masked.
        """
        keys_from = x_BTD if source_BSD is None else source_BSD
        scores_BTS: Tensor = self.query(x_BTD) @ self.key(keys_from).transpose(1, 2) * self.scale
        if self.causal and source_BSD is None:
            scores_BTS = masked(scores_BTS)
        return scores_BTS.softmax(dim=-1)

    def forward(self, x_BTD: Tensor, source_BSD: Tensor | None = None) -> Tensor:
        """Return the weighted values, B x T x K."""
        values_from = x_BTD if source_BSD is None else source_BSD
        mixed: Tensor = self.weights(x_BTD, source_BSD) @ self.value(values_from)
        return mixed


def score_variance(
    head_size: int, scaled: bool, generator: torch.Generator, batch: int = 32, time: int = 64
) -> float:
    """Return the variance of q . k for queries and keys of N(0, 1), B batches of T x T pairs."""
    query_BTK = torch.randn(batch, time, head_size, generator=generator)
    key_BTK = torch.randn(batch, time, head_size, generator=generator)
    scores_BTT = query_BTK @ key_BTK.transpose(1, 2) * (head_size**-0.5 if scaled else 1.0)
    return scores_BTT.var().item()


def _seconds(action: Callable[[], Tensor]) -> float:
    """Return the median time of an action over seven rounds, after one to warm up."""
    times = []
    for _ in range(8):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@click.command()
@one_line_errors
def main() -> None:
    """Show the averaging ladder: equality, scaling, cost, an encoder's head and cross-attention.

    \b
    Example:
      charlm ladder
    """
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(4, 256, 32, generator=generator)
    torch.manual_seed(0)
    head, encoder = Head(32, 16), Head(32, 16, causal=False)
    rungs: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("(1) double loop", mean_by_loop),
        ("(2) matrix product", mean_by_matrix),
        ("(3) masked softmax", mean_by_softmax),
        ("(4) attention head", head),
    ]
    with torch.no_grad():
        first = mean_by_loop(x_BTD)
        click.echo("batch 4, time 256, width 32, head size 16\n")
        for name, rung in rungs:
            milliseconds = _seconds(lambda rung=rung: rung(x_BTD)) * 1000  # type: ignore[misc]
            out = rung(x_BTD)
            same = (
                f"largest difference from (1): {(out - first).abs().max().item():.1e}"
                if out.shape == first.shape
                else "its weights depend on the data: no mean any more"
            )
            click.echo(f"{name:20} {milliseconds:9.3f} ms   {same}")
        click.echo("\nvariance of q . k for N(0, 1) queries and keys of size 16:")
        click.echo(f"  unscaled {score_variance(16, False, generator):6.2f}")
        click.echo(f"  scaled   {score_variance(16, True, generator):6.2f}")
        click.echo("\nsoftmax, which a large variance sharpens towards one symbol:")
        for factor in (1, 8):
            probs = torch.softmax(torch.tensor(PUBLISHED_LOGITS) * factor, dim=0)
            click.echo(f"  {factor} x logits: " + ", ".join(f"{p:.4f}" for p in probs.tolist()))
        source_BSD = torch.randn(4, 10, 32, generator=generator)
        click.echo("\nhow many characters the third of 256 attends to:")
        for name, weights in (
            ("masked (decoder)", head.weights(x_BTD)),
            ("unmasked (encoder)", encoder.weights(x_BTD)),
            ("cross-attention to 10 others", head.weights(x_BTD, source_BSD)),
        ):
            click.echo(f"  {name:30} {int((weights[0, 2] > 0).sum())}")


if __name__ == "__main__":
    main()
