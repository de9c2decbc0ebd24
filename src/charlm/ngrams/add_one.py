"""Add-one smoothing; the equation is in charlm.models.add_one, its place in the zoo.

Shapes: G distinct n-grams of an order, C distinct contexts, T positions, V symbols.
"""

import numpy as np

from charlm.ngrams.counting import Ints
from charlm.ngrams.kneser_ney import Floats, Level


class AddOne:
    """The model of some counts, of which the highest order alone is asked.

    Args:
        levels: of order 1 upwards.
        vocabulary: number of symbols, V.
    """

    def __init__(self, levels: list[Level], vocabulary: int) -> None:
        self.vocabulary, self.order = vocabulary, len(levels)
        self._codes_G, self._counts_G = levels[-1].codes_G, levels[-1].counts_G
        contexts = len(levels[-2].codes_G) if self.order > 1 else 1
        context_G = self._codes_G // vocabulary
        self._first = np.searchsorted(context_G, np.arange(contexts + 1))

    def probabilities(self, places: list[Ints]) -> Floats:
        """Return the distribution of the character after each position, T x V.

        Args:
            places: for n = 0, 1, ..., the place of the n-gram that ends at each position, or -1.
        """
        context = places[self.order - 1]
        counts_TV = np.zeros((len(context), self.vocabulary))
        (rows,) = np.nonzero(context >= 0)
        context = context[rows]
        first, last = self._first[context], self._first[context + 1]
        lengths = last - first
        starts = np.cumsum(lengths) - lengths
        grams = np.arange(lengths.sum()) - np.repeat(starts - first, lengths)
        symbols = self._codes_G[grams] % self.vocabulary
        counts_TV[np.repeat(rows, lengths), symbols] = self._counts_G[grams]
        p_TV: Floats = (counts_TV + 1) / (counts_TV.sum(axis=1, keepdims=True) + self.vocabulary)
        return p_TV
