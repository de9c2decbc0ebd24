"""All n-grams of a text, counted exactly, order by order.

An n-gram's number is the rank of its first n - 1 characters among the distinct ones, times the
vocabulary, plus its last symbol: it never overflows, whatever the order, and in ascending order
the successors of a context lie side by side.

Shapes: N characters, G distinct n-grams of an order.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

TABLE_PER_CHARACTER = 8
"""Largest table of counts, in entries a character, that is cheaper than sorting."""


class Grams(NamedTuple):
    """The n-grams of one order.

    Attributes:
        codes_G: the number of each distinct one, ascending.
        counts_G: how often it occurs, at least once.
        ranks_N: for each position of the text but the last n - 1, the place in `codes_G` of the
            n-gram that begins there.
    """

    codes_G: Ints
    counts_G: Ints
    ranks_N: Ints


def grams(ids_N: NDArray[np.integer], vocabulary: int, order: int) -> Iterator[Grams]:
    """Yield the n-grams of order 1, 2, ..., `order`, or of the text's length if that is less.

    Args:
        ids_N: the text, integers in [0, vocabulary).
        vocabulary: number of symbols.
        order: n of the longest, in characters.
    """
    ids_N = ids_N.astype(np.int64)
    ranks_N, contexts = np.zeros(len(ids_N) + 1, dtype=np.int64), 1
    for n in range(1, min(order, len(ids_N)) + 1):
        codes_N = ranks_N[: len(ids_N) - n + 1] * vocabulary + ids_N[n - 1 :]
        if contexts * vocabulary <= TABLE_PER_CHARACTER * len(ids_N):
            table = np.bincount(codes_N, minlength=contexts * vocabulary)
            codes_G = np.flatnonzero(table)
            counts_G = table[codes_G]
            table[codes_G] = np.arange(len(codes_G))
            ranks_N = table[codes_N]
        else:
            codes_G, ranks_N, counts_G = np.unique(codes_N, return_inverse=True, return_counts=True)
        yield Grams(codes_G, counts_G, ranks_N)
        contexts = len(codes_G)
