"""Plug-in (maximum-likelihood) entropies of n-grams, in bits per character.

    H_n = -sum over n-grams g of p(g) log2 p(g)             p(g) = count(g) / number of n-grams
    H(X | k previous) = H_(k+1) - H_k, with both counted over the same positions

Plug-in estimates fall far below the true entropy as n grows, because most long n-grams of a finite
text occur once: they describe this text, not the language.

Source: Shannon, "Prediction and Entropy of Printed English", 1951; the entropy notebook (section A
of the table of sources).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """Statistics of one n.

    Attributes:
        order: n, in characters.
        ngrams: n-grams in the text, overlapping.
        distinct: different ones.
        once_share: share of the distinct ones that occur once.
        bits: H_n, in bits per n-gram.
        bits_per_char: H_n / n.
        conditional_bits_per_char: H(X | n - 1 previous characters).
        bits_per_byte: the same per byte of UTF-8; equal to it for ASCII.
        compression_ratio: the same divided by 8 bits; some documents call this "bits per byte".
    """

    order: int
    ngrams: int
    distinct: int
    once_share: float
    bits: float
    bits_per_char: float
    conditional_bits_per_char: float
    bits_per_byte: float
    compression_ratio: float


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Return the entropy of relative frequencies, in bits; every count is positive.

    >>> entropy_bits(np.array([1, 1, 2]))
    1.5
    """
    total = int(counts.sum())
    # Equal counts are added together, so that the sum has few terms and little rounding.
    values, how_many = np.unique(counts, return_counts=True)
    return float(np.log2(total) - (values * how_many * np.log2(values)).sum() / total)


def statistics(ids: NDArray[np.integer], orders: list[int], bytes_per_char: float) -> list[Order]:
    """Count all n-grams of the given orders.

    Args:
        ids: the text, one dimension.
        orders: ascending; those longer than the text are left out.
        bytes_per_char: mean length of a character in UTF-8.
    """
    results = []
    vocabulary = int(ids.max()) + 1
    # An n-gram is named by its rank among the distinct ones, so that its number stays below the
    # text's length and rank * vocabulary + id never overflows, whatever the order.
    ranks = np.zeros(len(ids), dtype=np.int64)
    for order in range(1, min(orders[-1], len(ids)) + 1):
        contexts = ranks[: len(ids) - order + 1]
        numbers = contexts * vocabulary + ids[order - 1 :]
        _, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        if order not in orders:
            continue
        bits = entropy_bits(counts)
        context_bits = entropy_bits(np.unique(contexts, return_counts=True)[1])
        conditional = bits - context_bits
        results.append(
            Order(
                order=order,
                ngrams=len(numbers),
                distinct=len(counts),
                once_share=float((counts == 1).mean()),
                bits=bits,
                bits_per_char=bits / order,
                conditional_bits_per_char=conditional,
                bits_per_byte=bits / order / bytes_per_char,
                compression_ratio=bits / order / 8,
            )
        )
    return results
