"""Entropies of n-grams from their counts, by four estimators.

    H_n = -sum over n-grams g of p(g) log2 p(g)             bits per n-gram
    H(X | k previous) = H_(k+1) - H_k, with both counted over the same positions

The estimators of H from N n-grams, of which G are distinct and f_1 occur once; c is a count:

    plug-in         p(g) = c / N: the entropy of this text's own counts, far too low once most
                    n-grams occur once
    Miller-Madow    plug-in + (G - 1) / 2N nats
    Grassberger     ln N - (1/N) sum of c G(c),
                    G(c) = psi(c) + (-1)^c (psi((c + 1) / 2) - psi(c / 2)) / 2
    Chao-Shen       -sum of q ln q / (1 - (1 - q)^N),  q = (1 - f_1 / N) c / N

None is right where nearly every n-gram occurs once. How far they differ there shows how little the
text says about such orders.

Source: Shannon, "Prediction and Entropy of Printed English", 1951; Miller, 1955; Grassberger,
"Entropy Estimates from Insufficient Samplings", 2003; Chao and Shen, 2003; the entropy notebook
(document A of docs/published.md).

Shapes: K different counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from charlm.entropy.counts_of_counts import OrderCounts
from charlm.ngrams.counting import Ints

Floats = NDArray[np.float64]


def plug_in(counts_K: Ints, frequencies_K: Ints) -> float:
    """Return the entropy of relative frequencies, in nats.

    Args:
        counts_K: the different counts, each positive.
        frequencies_K: how many n-grams have each count. The sum then has few terms and little
            rounding.
    """
    total = counts_K @ frequencies_K
    return float(np.log(total) - (counts_K * frequencies_K * np.log(counts_K)).sum() / total)


def miller_madow(counts_K: Ints, frequencies_K: Ints) -> float:
    """Return Miller's estimate, in nats; arguments as in `plug_in`."""
    correction = (frequencies_K.sum() - 1) / (2 * (counts_K @ frequencies_K))
    return plug_in(counts_K, frequencies_K) + float(correction)


def grassberger(counts_K: Ints, frequencies_K: Ints) -> float:
    """Return Grassberger's estimate of 2003, in nats; arguments as in `plug_in`."""
    signs = 1.0 - 2.0 * (counts_K % 2)
    halves = digamma((counts_K + 1) / 2) - digamma(counts_K / 2)
    terms = counts_K * (digamma(counts_K) + signs * halves / 2)
    total = counts_K @ frequencies_K
    return float(np.log(total) - (frequencies_K * terms).sum() / total)


def chao_shen(counts_K: Ints, frequencies_K: Ints) -> float:
    """Return Chao and Shen's estimate, in nats; arguments as in `plug_in`."""
    total = int(counts_K @ frequencies_K)
    once = int(frequencies_K[counts_K == 1].sum())
    # If all occur once, coverage would be 0: one less is the usual remedy.
    coverage = 1 - min(once, total - 1) / total if total > 1 else 1.0
    q = coverage * counts_K / total
    with np.errstate(divide="ignore"):  # q is 1 for a single distinct n-gram, which is surely seen
        seen = -np.expm1(total * np.log1p(-q))
    return float(-(frequencies_K * q * np.log(q) / seen).sum())


ESTIMATORS: dict[str, Callable[[Ints, Ints], float]] = {
    "plug_in": plug_in,
    "miller_madow": miller_madow,
    "grassberger": grassberger,
    "chao_shen": chao_shen,
}


@dataclass(frozen=True)
class Estimate:
    """The entropy of one order by one estimator.

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
        ngrams: number of n-grams in the text, overlapping.
        distinct: number of different ones, G.
        once_share: share of the different ones that occur once.
        estimates: by name of the estimator.
    """

    order: int
    ngrams: int
    distinct: int
    once_share: float
    estimates: dict[str, Estimate]


def estimate(counts_K: Ints, frequencies_K: Ints) -> dict[str, float]:
    """Return each estimator's entropy in bits; arguments as in `plug_in`.

    >>> round(estimate(np.array([1, 2]), np.array([2, 1]))["plug_in"], 12)
    1.5
    """
    return {
        name: estimator(counts_K, frequencies_K) / math.log(2)
        for name, estimator in ESTIMATORS.items()
    }


def statistics(counted: list[OrderCounts], bytes_per_char: float) -> list[Order]:
    """Return the statistics of each order.

    Args:
        counted: some orders of one text.
        bytes_per_char: mean length of a character in UTF-8.
    """
    results = []
    for row in counted:
        counts_K, frequencies_K = row.ngrams
        distinct = int(frequencies_K.sum())
        bits, context_bits = estimate(*row.ngrams), estimate(*row.contexts)
        results.append(
            Order(
                order=row.order,
                ngrams=int(counts_K @ frequencies_K),
                distinct=distinct,
                once_share=int(frequencies_K[counts_K == 1].sum()) / distinct,
                estimates={
                    name: _per_unit(row.order, bits[name], context_bits[name], bytes_per_char)
                    for name in bits
                },
            )
        )
    return results


def _per_unit(order: int, bits: float, context_bits: float, bytes_per_char: float) -> Estimate:
    return Estimate(
        bits=bits,
        bits_per_char=bits / order,
        conditional_bits_per_char=bits - context_bits * (order > 1),
        bits_per_byte=bits / order / bytes_per_char,
        compression_ratio=bits / order / bytes_per_char / 8,
    )
