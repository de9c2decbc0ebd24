"""Entropies of n-grams: what the counts claim, and what four estimators make of them.

    H_n = -sum over n-grams g of p(g) log2 p(g)             bits per n-gram
    H(X | k previous) = H_(k+1) - H_k, with both counted over the same positions

The estimators of H from N draws of which K are distinct, f_1 occur once, and c is a count:

    plug-in         p(g) = c / N: the entropy of this text's own counts, far too low once most
                    n-grams occur once
    Miller-Madow    plug-in + (K - 1) / 2N nats
    Grassberger     ln N - (1/N) sum of c G(c),
                    G(c) = psi(c) + (-1)^c (psi((c + 1) / 2) - psi(c / 2)) / 2
    Chao-Shen       -sum of q ln q / (1 - (1 - q)^N),  q = (1 - f_1 / N) c / N

None is right where nearly every n-gram occurs once; how far they part there is the finding.

Source: Shannon, "Prediction and Entropy of Printed English", 1951; Miller, 1955; Grassberger,
"Entropy Estimates from Insufficient Samplings", 2003; Chao and Shen, 2003; the entropy notebook
(section A of the table of sources).

Shapes: K different counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from charlm.entropy.counts_of_counts import Spectrum
from charlm.ngrams.counting import Ints

Floats = NDArray[np.float64]


def plug_in(values: Ints, how_many: Ints) -> float:
    """Return the entropy of relative frequencies, in nats.

    Args:
        values: the different counts, each positive.
        how_many: how many n-grams have each. Equal counts are added together, so that the sum has
            few terms and little rounding.
    """
    total = values @ how_many
    return float(np.log(total) - (values * how_many * np.log(values)).sum() / total)


def miller_madow(values: Ints, how_many: Ints) -> float:
    """Return Miller's estimate, in nats; arguments as in `plug_in`."""
    return plug_in(values, how_many) + float((how_many.sum() - 1) / (2 * (values @ how_many)))


def grassberger(values: Ints, how_many: Ints) -> float:
    """Return Grassberger's estimate of 2003, in nats; arguments as in `plug_in`."""
    signs = 1.0 - 2.0 * (values % 2)
    halves = digamma((values + 1) / 2) - digamma(values / 2)
    terms = values * (digamma(values) + signs * halves / 2)
    total = values @ how_many
    return float(np.log(total) - (how_many * terms).sum() / total)


def chao_shen(values: Ints, how_many: Ints) -> float:
    """Return Chao and Shen's estimate, in nats; arguments as in `plug_in`."""
    total = int(values @ how_many)
    once = int(how_many[values == 1].sum())
    # With all of them seen once nothing would be covered: one less is the usual way out.
    coverage = 1 - min(once, total - 1) / total if total > 1 else 1.0
    q = coverage * values / total
    with np.errstate(divide="ignore"):  # q is 1 where there is one n-gram alone: it is surely seen
        seen = -np.expm1(total * np.log1p(-q))
    return float(-(how_many * q * np.log(q) / seen).sum())


ESTIMATORS: dict[str, Callable[[Ints, Ints], float]] = {
    "plug_in": plug_in,
    "miller_madow": miller_madow,
    "grassberger": grassberger,
    "chao_shen": chao_shen,
}


@dataclass(frozen=True)
class Estimate:
    """What one estimator makes of one order.

    Attributes:
        bits: H_n, in bits per n-gram.
        bits_per_char: H_n / n.
        conditional_bits_per_char: H(X | n - 1 previous characters).
        bits_per_byte: H_n / n per byte of UTF-8; equal to bits_per_char for ASCII.
        compression_ratio: bits_per_byte / 8; some documents call this "bits per byte".
    """

    bits: float
    bits_per_char: float
    conditional_bits_per_char: float
    bits_per_byte: float
    compression_ratio: float


@dataclass(frozen=True)
class Order:
    """Statistics of one n.

    Attributes:
        order: n, in characters.
        ngrams: n-grams in the text, overlapping.
        distinct: different ones.
        once_share: share of the distinct ones that occur once.
        estimates: by the name of the estimator.
    """

    order: int
    ngrams: int
    distinct: int
    once_share: float
    estimates: dict[str, Estimate]


def estimate(values: Ints, how_many: Ints) -> dict[str, float]:
    """Return each estimator's entropy in bits; arguments as in `plug_in`.

    >>> round(estimate(np.array([1, 2]), np.array([2, 1]))["plug_in"], 12)
    1.5
    """
    return {name: kind(values, how_many) / math.log(2) for name, kind in ESTIMATORS.items()}


def statistics(spectra: list[Spectrum], bytes_per_char: float) -> list[Order]:
    """Return the statistics of each order.

    Args:
        spectra: of some orders of one text.
        bytes_per_char: mean length of a character in UTF-8.
    """
    results = []
    for found in spectra:
        order, distinct = found.order, int(found.how_many_K.sum())
        bits = estimate(found.values_K, found.how_many_K)
        contexts = estimate(found.context_values, found.context_how_many)
        results.append(
            Order(
                order=order,
                ngrams=int(found.values_K @ found.how_many_K),
                distinct=distinct,
                once_share=int(found.how_many_K[found.values_K == 1].sum()) / distinct,
                estimates={
                    name: Estimate(
                        bits=value,
                        bits_per_char=value / order,
                        conditional_bits_per_char=value - contexts[name] * (order > 1),
                        bits_per_byte=value / order / bytes_per_char,
                        compression_ratio=value / order / bytes_per_char / 8,
                    )
                    for name, value in bits.items()
                },
            )
        )
    return results
