"""Interpolated modified Kneser-Ney: an n-gram model with three discounts an order.

    p_n(w | h) = max(c(h w) - D(c(h w)), 0) / sum over v of c(h v)  +  g(h) p_{n-1}(w | h')
    g(h) = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h)) / sum over v of c(h v)
    D_k = k - (k + 1) Y n_{k+1} / n_k,    Y = n_1 / (n_1 + 2 n_2),    k = 1, 2, 3 or more

h is the n - 1 characters before w, h' the last n - 2 of them. At the highest order c counts
occurrences; below it c counts the different characters seen before an n-gram, because a lower order
is asked only where the higher one is not sure. N_k(h) is how many w follow h with a count of k, n_k
how many n-grams of the order have a count of k. Below order 1 lies the uniform distribution over
the vocabulary. A context that was never seen leaves the lower order's probability as it is.

With one kind of discount, D = Y whatever the count, which is Kneser and Ney's own. Lower orders may
count occurrences instead, to show what counting what comes before buys.

Where a discount is undefined or outside 0 < D_k <= k, as at order 1 of a small alphabet, whose few
symbols have hardly any small counts, that discount is 1/2, 1 or 3/2, as in KenLM's fallback. (Zero
is left out too: a context whose discounts are all zero would call everything else impossible.)

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999;
Kneser and Ney, 1995.

Shapes: N characters, G distinct n-grams of an order, C distinct contexts, T targets, V symbols.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.counting import Ints, grams

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where counts of counts give none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """All n-grams of one order.

    Attributes:
        codes_G: as in charlm.ngrams: the context's place in the level below times V, plus the last
            symbol, ascending, so that the successors of a context lie side by side.
        counts_G: c of each.
    """

    codes_G: Ints
    counts_G: Ints


def discounts(counts_G: Ints, kinds: int = 3) -> tuple[float, float, float]:
    """Return D_1, D_2 and D_3 of one order, from its counts of counts.

    Args:
        counts_G: of the n-grams.
        kinds: 3; or 1: each of the three is D = n_1 / (n_1 + 2 n_2), as Kneser and Ney had it.

    >>> discounts(np.array([1] * 8 + [2] * 4 + [3] * 2 + [4]))
    (0.5, 1.25, 2.0)
    """
    n = [int((counts_G == k).sum()) for k in range(5)]
    found = []
    for k in (1, 2, 3):
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.0
        discount = k - (k + 1) * y * n[k + 1] / n[k] if n[k] and n[1] else -1.0
        if kinds == 1:
            discount = y if y < 1 else -1.0
        largest, fallback = (k, FALLBACK[k - 1]) if kinds == 3 else (1, FALLBACK[0])
        found.append(discount if 0 < discount <= largest else fallback)
    return found[0], found[1], found[2]


def counts(ids_N: NDArray[np.integer], vocabulary: int, order: int) -> "Counts":
    """Count a text's n-grams of order 1 to `order`, both ways.

    Args:
        ids_N: the text, integers in [0, vocabulary).
        vocabulary: number of symbols, V.
        order: n of the longest; if the text is shorter, its length.
    """
    occurring: list[Level] = []
    continuing: list[Level] = []
    shorter_N: Ints = np.empty(0, dtype=np.int64)
    for found in grams(ids_N, vocabulary, order):
        if occurring:
            # Different characters before a shorter n-gram: the longer ones that end in it.
            longer_N = found.ranks_N
            ending_G = np.zeros(len(found.codes_G), dtype=np.int64)
            ending_G[longer_N] = shorter_N[1 : len(longer_N) + 1]
            shorter = occurring[-1]
            seen_G = np.bincount(ending_G, minlength=len(shorter.codes_G))
            continuing.append(Level(shorter.codes_G, seen_G))
        occurring.append(Level(found.codes_G, found.counts_G))
        shorter_N = found.ranks_N
    return Counts(occurring, continuing, vocabulary)


@dataclass(frozen=True)
class Counts:
    """A text's n-grams.

    Attributes:
        occurring: for n = 1, 2, ...: how often each occurs.
        continuing: for all n but the last: how many different characters come before it.
        vocabulary: number of symbols, V.
    """

    occurring: list[Level]
    continuing: list[Level]
    vocabulary: int

    def levels(self, order: int, continuation: bool = True) -> list[Level]:
        """Return the orders up to one, or up to the highest counted if that is less.

        Args:
            order: n of the longest n-grams.
            continuation: whether lower orders count what comes before; otherwise occurrences.
        """
        order = min(order, len(self.occurring))
        lower = self.continuing if continuation else self.occurring
        return [*lower[: order - 1], self.occurring[order - 1]]

    def model(self, order: int) -> "KneserNey":
        """Return the model of one order, or of the highest counted if that is less."""
        return KneserNey(self.levels(order), self.vocabulary)


def places(levels: list[Level], vocabulary: int, ids_BN: NDArray[np.integer]) -> list[Ints]:
    """Return, for n = 0, 1, ..., the place of the n-gram that ends at each character, or -1.

    Args:
        levels: of order 1 upwards.
        vocabulary: number of symbols, V.
        ids_BN: one text, or several of one length.
    """
    ids_BN = ids_BN.astype(np.int64)
    found = [np.zeros(ids_BN.shape, dtype=np.int64)]
    for n, level in enumerate(levels, start=1):
        context = np.full(ids_BN.shape, -1 if n > 1 else 0, dtype=np.int64)
        context[..., 1:] = found[-1][..., :-1]
        numbers = context * vocabulary + ids_BN
        at = np.minimum(np.searchsorted(level.codes_G, numbers), len(level.codes_G) - 1)
        found.append(np.where((level.codes_G[at] == numbers) & (context >= 0), at, -1))
    return found


class KneserNey:
    """The model of some counts.

    Args:
        levels: of order 1 upwards.
        vocabulary: number of symbols, V.
        kinds: of discounts, 3 or 1.
    """

    def __init__(self, levels: list[Level], vocabulary: int, kinds: int = 3) -> None:
        self.levels = levels
        self.vocabulary = vocabulary
        self.discounts = [discounts(level.counts_G, kinds) for level in levels]
        self._mass: list[Floats] = []  # what each n-gram adds to the probability of its symbol
        self._rest: list[Floats] = []  # g of each context; nan if nothing was seen behind it
        self._first: list[Ints] = []  # where each context's successors begin
        contexts = 1
        for level, found in zip(levels, self.discounts, strict=True):
            context_G = level.codes_G // vocabulary
            kind_G = np.minimum(level.counts_G, 3)
            taken_G = np.array([0.0, *found])[kind_G]
            total_C = np.bincount(context_G, level.counts_G, contexts)
            with np.errstate(invalid="ignore", divide="ignore"):
                self._rest.append(np.bincount(context_G, taken_G, contexts) / total_C)
                self._mass.append((level.counts_G - taken_G) / total_C[context_G])
            self._first.append(np.searchsorted(context_G, np.arange(contexts + 1)))
            contexts = len(level.codes_G)

    def nats(self, ids_N: NDArray[np.integer], known: int) -> Floats:
        """Return the nats of ids_N[known:], each from all characters before it."""
        found = places(self.levels, self.vocabulary, ids_N)
        p_T = np.full(len(ids_N) - known, 1 / self.vocabulary)
        before = np.arange(known, len(ids_N)) - 1
        for n in range(1, len(self.levels) + 1):
            context = np.where(before >= 0, found[n - 1][before], 0 if n == 1 else -1)
            rest = self._rest[n - 1][context]
            use = (context >= 0) & ~np.isnan(rest)
            gram = found[n][known:]
            mass = np.where(gram >= 0, self._mass[n - 1][gram], 0.0)
            p_T = np.where(use, np.nan_to_num(mass) + rest * p_T, p_T)
        nats_T: Floats = -np.log(p_T)
        return nats_T

    def probabilities(self, places: list[Ints]) -> Floats:
        """Return the distribution of the character after each position, T x V.

        Args:
            places: for n = 0, 1, ..., the place of the n-gram that ends at each position, or -1.
        """
        p_TV = np.full((len(places[0]), self.vocabulary), 1 / self.vocabulary)
        for n, level in enumerate(self.levels, start=1):
            context = places[n - 1]
            (rows,) = np.nonzero((context >= 0) & ~np.isnan(self._rest[n - 1][context]))
            context = context[rows]
            p_TV[rows] *= self._rest[n - 1][context][:, None]
            first, last = self._first[n - 1][context], self._first[n - 1][context + 1]
            lengths = last - first
            starts = np.cumsum(lengths) - lengths
            grams = np.arange(lengths.sum()) - np.repeat(starts - first, lengths)
            symbols = level.codes_G[grams] % self.vocabulary
            p_TV[np.repeat(rows, lengths), symbols] += self._mass[n - 1][grams]
        return p_TV
