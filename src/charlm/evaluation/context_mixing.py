"""Context mixing: a model's prediction, mixed with what followed earlier in like contexts.

At each place a text stands in K contexts (CONTEXTS): its last characters, its word and the words
before, its line, its paragraph. Let n_k(w) be how often symbol w followed the latest places with
context k, each of them worth FADING of the one after it. How much likelier w is there than the
model says, and what the mixture says:

    f_k(w) = log(1 + n_k(w) / (a p(w))) - log(1 + n_k / a)     n_k: the sum over all w
    logits(w) = u_z0 log p(w) + sum over k of u_zk f_k(w)      u: Z x (1 + K)

f_k is the logarithm of (n_k(w) + a p(w)) / (n_k + a), divided by p(w): nothing where a context is
new. z is the kind of place: how many characters its word has so far, and whether a paragraph has
just begun. A name at the beginning of a speech needs other weights than the middle of a word.

The weights u start from 1 for the model and SHARE for each context, and learn on the way: AdaGrad,
one step after each piece, on the sum of its losses.

Source: Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005 (weights
selected by context); Mattern, "Mixing Strategies in Data Compression", 2012 (weighted
log-probabilities); Duchi et al., "Adaptive Subgradient Methods", 2011 (AdaGrad).

Shapes: M characters of the past, S of a piece, K contexts, L earlier places, V vocabulary, Z kinds
of places.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONTEXTS = 10
"""What `Reader.read` returns: K."""

LATEST = 32
"""Earlier places looked at in each context, L."""

FADING = 0.85
"""What an earlier place counts, where the next later one counts 1."""

PRIOR = 0.5
"""Characters that the model's prediction counts in a context, a."""

SHARE = 0.1
"""Weight of each context at first."""

LETTERS = 4
"""From so many characters on all words are of one kind, as far as weights are concerned."""

PLACES = 2 * (LETTERS + 1)
"""Kinds of places, Z."""

SMALLEST = -80.0
"""Log-probabilities below are raised to it: exp of their negative must be a number."""


class Reader:
    """Reads a text character by character, and says in which contexts it stands.

    A word is of letters, digits and apostrophes, whatever their case. A paragraph ends with an
    empty line. In a play its first line is the speaker's name.

    Args:
        symbols: of the vocabulary.
    """

    def __init__(self, symbols: str) -> None:
        ids = {symbol: place for place, symbol in enumerate(symbols)}
        self._folded = [ids.get(symbol.lower(), place) for place, symbol in enumerate(symbols)]
        self._in_words = [symbol.isalnum() or symbol == "'" for symbol in symbols]
        self._newline = ids.get("\n")
        self._last: tuple[int, ...] = ()
        # Hashes of what was read; of nothing it is 0.
        self._word, self._letters, self._words = 0, 0, (0, 0)
        self._line, self._empty = 0, True
        self._begins, self._head, self._heads = True, 0, (0, 0)

    @property
    def place(self) -> int:
        """The kind of this place, in [0, Z)."""
        return min(self._letters, LETTERS) + (LETTERS + 1) * self._begins

    def read(self, symbol: int) -> tuple[int, ...]:
        """Read a character; return the contexts of the place behind it, as K hashes."""
        self._last = *self._last[-9:], symbol
        if self._in_words[symbol]:
            self._word, self._letters = hash((self._word, self._folded[symbol])), self._letters + 1
        elif self._letters:
            self._words, self._word, self._letters = (self._word, self._words[0]), 0, 0
        if symbol == self._newline:
            self._end_line()
        else:
            self._line, self._empty = hash((self._line, symbol)), False
        word = hash((self._word, 0 if self._letters else symbol))
        before, earlier = self._words
        line = hash((self._line, self._begins))
        # Who speaks; where a name is being read, who spoke before.
        speaker, other = self._heads if self._begins else (self._head, self._heads[0])
        return (
            hash(self._last[-6:]),
            hash(self._last),
            word,
            hash((word, before)),
            hash((word, before, earlier)),
            hash((word, 0, earlier)),
            line,
            hash((word, self._begins or self._head)),
            hash((line, speaker)),
            hash((line, speaker, other)),
        )

    def _end_line(self) -> None:
        if self._empty and not self._begins:
            self._heads, self._begins = (self._head, self._heads[0]), True
        elif self._begins and not self._empty:
            self._head, self._begins = self._line, False
        self._line, self._empty = 0, True


@dataclass
class Index:
    """Places of a text by the number of their context: those of the past sorted, others by name."""

    numbers_M: NDArray[np.int64]
    places_M: NDArray[np.int64]
    later: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, numbers_M: NDArray[np.int64]) -> "Index":
        """Return the index of a text; `numbers_M` are the contexts of its places in order."""
        places_M = np.argsort(numbers_M, kind="stable")
        return cls(numbers_M[places_M], places_M)

    def find(self, numbers_S: NDArray[np.int64], start: int) -> list[list[int]]:
        """Return the latest places, latest first, before each of some new ones; add those.

        Args:
            numbers_S: contexts of the new places.
            start: the first of them.
        """
        firsts_S = np.searchsorted(self.numbers_M, numbers_S, side="left").tolist()
        ends_S = np.searchsorted(self.numbers_M, numbers_S, side="right").tolist()
        found = []
        for place, number in enumerate(numbers_S.tolist(), start):
            later = self.later[number]
            latest = later[: -LATEST - 1 : -1]
            if missing := LATEST - len(latest):
                first, end = firsts_S[place - start], ends_S[place - start]
                latest += self.places_M[max(first, end - missing) : end][::-1].tolist()
            found.append(latest)
            later.append(place)
        return found


class ContextMixing:
    """Mixes what a model says, place after place.

    Attributes:
        weights_ZK: u, which `step` changes; Z x (1 + K).

    Args:
        symbols: of the vocabulary.
        past_M: the text before the first place, on any device; its last character is not read yet.
        rate: of learning.
    """

    def __init__(self, symbols: str, past_M: Tensor, rate: float) -> None:
        self._rate, self._reader, self._symbols = rate, Reader(symbols), len(symbols)
        self.weights_ZK = torch.full((PLACES, 1 + CONTEXTS), SHARE)
        self.weights_ZK[:, 0] = 1.0
        self.weights_ZK.requires_grad_()
        self._squares_ZK = torch.zeros(PLACES, 1 + CONTEXTS)
        self._ids: list[int] = []
        numbers_MK, _ = self._contexts(past_M[:-1].tolist())
        self._indices = [Index.of(numbers_M) for numbers_M in numbers_MK.T]
        self._places_S = torch.zeros(0, dtype=torch.int64)
        self._counts_SKV = torch.zeros(0, CONTEXTS, self._symbols)

    def _contexts(self, ids: list[int]) -> tuple[NDArray[np.int64], list[int]]:
        """Read characters; return their contexts, S x K, and the kinds of their places."""
        self._ids += ids
        numbers_SK, places = np.empty((len(ids), CONTEXTS), dtype=np.int64), []
        for numbers_K, symbol in zip(numbers_SK, ids, strict=True):
            numbers_K[:] = self._reader.read(symbol)
            places.append(self._reader.place)
        return numbers_SK, places

    def read(self, ids: list[int]) -> None:
        """Read characters; `mix` then speaks of the place behind each."""
        start = len(self._ids)
        numbers_SK, places = self._contexts(ids)
        counts_SKV = np.zeros((len(ids), CONTEXTS, self._symbols), dtype=np.float32)
        follow_SKL = np.full((len(ids), CONTEXTS, LATEST), -1)
        for k, index in enumerate(self._indices):
            for s, found in enumerate(index.find(numbers_SK[:, k], start)):
                follow_SKL[s, k, : len(found)] = [self._ids[place + 1] for place in found]
        for earlier in range(LATEST):
            s_P, k_P = np.nonzero(follow_SKL[:, :, earlier] >= 0)
            # No place and context is there twice, so no addition is lost.
            counts_SKV[s_P, k_P, follow_SKL[s_P, k_P, earlier]] += FADING**earlier
        self._places_S = torch.cat([self._places_S, torch.tensor(places, dtype=torch.int64)])
        self._counts_SKV = torch.cat([self._counts_SKV, torch.from_numpy(counts_SKV)])

    def mix(self, logits_SV: Tensor) -> Tensor:
        """Return logits that say more than those of the model.

        Args:
            logits_SV: of the model, at the last S places that were read and not forgotten.
        """
        last = len(logits_SV)
        counts_SKV = self._counts_SKV[-last:].to(logits_SV.device)
        log_p_S1V = logits_SV.log_softmax(-1).clamp(min=SMALLEST)[:, None]
        more_SKV = (counts_SKV / PRIOR * (-log_p_S1V).exp()).log1p()
        more_SKV = more_SKV - (counts_SKV.sum(-1, keepdim=True) / PRIOR).log1p()
        weights_SK1 = self.weights_ZK[self._places_S[-last:]].to(logits_SV.device)[..., None]
        return (weights_SK1 * torch.cat([log_p_S1V, more_SKV], dim=1)).sum(dim=1)

    def step(self, gradient_ZK: Tensor) -> None:
        """Change the weights, and forget what was read.

        Args:
            gradient_ZK: of the summed losses of a piece.
        """
        with torch.no_grad():
            self._squares_ZK.addcmul_(gradient_ZK, gradient_ZK)
            self.weights_ZK -= self._rate * gradient_ZK / (self._squares_ZK.sqrt() + 1)
        self._places_S, self._counts_SKV = self._places_S[:0], self._counts_SKV[:0]
