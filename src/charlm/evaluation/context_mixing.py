"""Context mixing: a model's prediction, corrected by what followed earlier in the same contexts.

Each position of a text has K contexts, made of what stands before it; `Reader.read` lists them. For
each look at the latest L positions where it occurred. The last counts 1, each earlier one DECAY
times the next; n_k(w) is the sum for those that symbol w followed, n_k that of all. Then

    q_k(w) = (n_k(w) + a p(w)) / (n_k + a)           p: what the model says
    f_k(w) = log(q_k(w) / p(w))                      how much likelier context k makes w
    logits(w) = u_z0 log p(w) + sum over k of (u_zk + v_ck) f_k(w)

z is the kind of position: how many characters its word has so far, and whether this is the first
line of a paragraph, which in a play is a speaker's name. c is the evidence: the context occurred
once; several times, always followed by the same symbol; or by different ones. Where it never
occurred, f_k is 0.

At first u is 1 for the model and FIRST_WEIGHT for each context, and v is 0. After each piece both
take a step on the sum of its losses (AdaGrad): u <- u - rate g / (1 + sqrt(sum of all g^2 so far)).

Source: Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005 (weights
selected by context); Mattern, "Mixing Strategies in Data Compression", 2012 (weighted
log-probabilities); Duchi et al., "Adaptive Subgradient Methods", 2011 (AdaGrad).

Shapes: M characters of the past, S of a piece, K contexts, L earlier positions, V vocabulary, Z
kinds of positions, C classes of evidence.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONTEXTS = 10
"""K."""

LATEST = 32
"""Earlier positions looked at in each context, L."""

MOST_PAST = 4_000_000
"""Characters of the past that are indexed, at most: its end. They take 0.3 GB a million."""

DECAY = 0.85
DECAYS_L = np.array([DECAY**earlier for earlier in range(LATEST)], dtype=np.float32)

PRIOR = 0.5
"""What the model's prediction counts in a context, a: half of its latest position."""

FIRST_WEIGHT = 0.1

LETTERS = 4
"""Words of so many characters and more count alike."""

KINDS = 2 * (LETTERS + 1)
"""Kinds of positions, Z."""

ONCE, AGREEING, DIFFERING = range(3)
"""Classes of evidence, C."""

SMALLEST = -80.0
"""Log-probabilities below are raised to it: exp of their negative must be a number."""


class Reader:
    """Reads a text character by character, and names the contexts of each position.

    A word is of letters, digits and apostrophes, whatever their case. A paragraph ends with an
    empty line. Contexts are kept as hashes: equal ones stand for equal contexts.

    Args:
        symbols: of the vocabulary.
    """

    def __init__(self, symbols: str) -> None:
        ids = {symbol: id_ for id_, symbol in enumerate(symbols)}
        self._folded = [ids.get(symbol.lower(), ids[symbol]) for symbol in symbols]
        self._in_words = [symbol.isalnum() or symbol == "'" for symbol in symbols]
        self._newline, self._return = ids.get("\n"), ids.get("\r")
        self._last: tuple[int, ...] = ()
        # Hashes of what was read; of nothing it is 0.
        self._word, self._letters, self._words_before = 0, 0, (0, 0)
        self._line, self._line_is_empty = 0, True
        self._in_first_line, self._speaker, self._speakers_before = True, 0, (0, 0)

    @property
    def kind(self) -> int:
        """The kind of this position, in [0, Z)."""
        return min(self._letters, LETTERS) + (LETTERS + 1) * self._in_first_line

    def read(self, symbol: int) -> tuple[int, ...]:
        """Read a character; return the K contexts of the position after it."""
        self._last = *self._last[-9:], symbol
        if self._in_words[symbol]:
            self._word, self._letters = hash((self._word, self._folded[symbol])), self._letters + 1
        elif self._letters:
            self._words_before = self._word, self._words_before[0]
            self._word, self._letters = 0, 0
        if symbol == self._newline:
            self._end_line()
        elif symbol != self._return:
            self._line, self._line_is_empty = hash((self._line, symbol)), False
        # Between words, the last character stands for the word.
        word = hash((self._word, 0 if self._letters else symbol))
        before, earlier = self._words_before
        line = hash((self._line, self._in_first_line))
        speaker, other = self._speakers_before
        if not self._in_first_line:
            speaker, other = self._speaker, speaker
        return (
            hash(self._last[-6:]),  # the last 6 characters
            hash(self._last),  # the last 10
            word,  # the word so far
            hash((word, before)),  # word so far and the word before
            hash((word, before, earlier)),  # word so far and two words before
            hash((word, 0, earlier)),  # word so far and the word before the last one
            line,  # the line so far
            hash((word, self._in_first_line or self._speaker)),  # the word so far, and who speaks
            hash((line, speaker)),  # the line so far, and who speaks, or spoke last
            hash((line, speaker, other)),  # the same, and who spoke before that
        )

    def _end_line(self) -> None:
        """End a line: an empty one ends its paragraph, of which the first names the speaker."""
        if self._line_is_empty and not self._in_first_line:
            self._speakers_before = self._speaker, self._speakers_before[0]
            self._in_first_line = True
        elif self._in_first_line and not self._line_is_empty:
            self._speaker, self._in_first_line = self._line, False
        self._line, self._line_is_empty = 0, True


@dataclass
class Index:
    """The positions of a text by one of their contexts.

    Attributes:
        contexts_M: of the past, sorted.
        positions_M: in the order of these contexts; equal ones in the order of the text.
        latest: the last position after the past, by its context.
        before: for each position after the past, the one before it in the same context, or -1.
    """

    contexts_M: NDArray[np.int64]
    positions_M: NDArray[np.int32]
    latest: dict[int, int] = field(default_factory=dict)
    before: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, contexts_M: NDArray[np.int64]) -> "Index":
        """Return the index of a text; `contexts_M` are those of its positions, in order."""
        positions_M = np.argsort(contexts_M, kind="stable").astype(np.int32)
        return cls(contexts_M[positions_M], positions_M)

    def find(self, contexts_S: NDArray[np.int64]) -> list[list[int]]:
        """Return the earlier positions with the context of each new one, latest first; add it then.

        Args:
            contexts_S: of the positions after the last one.
        """
        past = len(self.positions_M)
        firsts_S = np.searchsorted(self.contexts_M, contexts_S, side="left").tolist()
        ends_S = np.searchsorted(self.contexts_M, contexts_S, side="right").tolist()
        found: list[list[int]] = []
        for first, end, context in zip(firsts_S, ends_S, contexts_S.tolist(), strict=True):
            positions: list[int] = []
            position = self.latest.get(context, -1)
            self.latest[context] = past + len(self.before)
            self.before.append(position)
            while position >= 0 and len(positions) < LATEST:
                positions.append(position)
                position = self.before[position - past]
            if missing := LATEST - len(positions):
                positions += self.positions_M[max(first, end - missing) : end][::-1].tolist()
            found.append(positions)
        return found


class ContextMixing:
    """Mixes what a model says, position after position.

    Attributes:
        weights: u, Z x (1 + K), and v, C x K; `step` changes them.

    Args:
        symbols: of the vocabulary.
        past_M: the text before, on any device; its last character is not read yet. Of a long one,
            the end counts.
        rate: of learning.
    """

    def __init__(self, symbols: str, past_M: Tensor, rate: float) -> None:
        self._rate, self._reader, self._symbols = rate, Reader(symbols), len(symbols)
        weights_ZK = torch.full((KINDS, 1 + CONTEXTS), FIRST_WEIGHT)
        weights_ZK[:, 0] = 1.0
        self.weights = [weights_ZK.requires_grad_(), torch.zeros(3, CONTEXTS, requires_grad=True)]
        self._squares = [torch.zeros_like(weight) for weight in self.weights]
        self._ids: list[int] = []
        contexts_MK, _ = self._contexts(past_M[-MOST_PAST - 1 : -1].tolist())
        self._indices = [Index.of(contexts_M) for contexts_M in contexts_MK.T]
        self._forget()

    def _contexts(self, ids: list[int]) -> tuple[NDArray[np.int64], list[int]]:
        """Read characters; return their contexts, S x K, and the kinds of their positions."""
        self._ids += ids
        contexts_SK, kinds = np.empty((len(ids), CONTEXTS), dtype=np.int64), []
        for contexts_K, symbol in zip(contexts_SK, ids, strict=True):
            contexts_K[:] = self._reader.read(symbol)
            kinds.append(self._reader.kind)
        return contexts_SK, kinds

    def _forget(self) -> None:
        """Forget the positions of a piece; the text stays known."""
        self._kinds_S = torch.zeros(0, dtype=torch.int64)
        self._classes_SK = torch.zeros(0, CONTEXTS, dtype=torch.int64)
        self._counts_SKV = torch.zeros(0, CONTEXTS, self._symbols)

    def read(self, ids: list[int]) -> None:
        """Read characters; `mix` then predicts what follows each of them."""
        contexts_SK, kinds = self._contexts(ids)
        follow_SKL = np.full((len(ids), CONTEXTS, LATEST), -1)
        for k, index in enumerate(self._indices):
            for s, found in enumerate(index.find(contexts_SK[:, k])):
                follow_SKL[s, k, : len(found)] = [self._ids[at + 1] for at in found]
        there_SKL = follow_SKL >= 0
        counts_SKV = np.zeros((len(ids), CONTEXTS, self._symbols), dtype=np.float32)
        s_P, k_P, earlier_P = np.nonzero(there_SKL)
        np.add.at(counts_SKV, (s_P, k_P, follow_SKL[there_SKL]), DECAYS_L[earlier_P])
        differ_SK = (there_SKL & (follow_SKL != follow_SKL[:, :, :1])).any(axis=2)
        classes_SK = np.where(there_SKL.sum(axis=2) > 1, AGREEING, ONCE)
        classes_SK = np.where(differ_SK, DIFFERING, classes_SK)
        self._kinds_S = torch.cat([self._kinds_S, torch.tensor(kinds, dtype=torch.int64)])
        self._classes_SK = torch.cat([self._classes_SK, torch.from_numpy(classes_SK)])
        self._counts_SKV = torch.cat([self._counts_SKV, torch.from_numpy(counts_SKV)])

    def mix(self, logits_SV: Tensor) -> Tensor:
        """Return the logits of the mixture.

        Args:
            logits_SV: of the model, at the last S positions that were read since the last step.
        """
        last, device = len(logits_SV), logits_SV.device
        weights_ZK, weights_CK = self.weights
        weights_SK = weights_ZK[self._kinds_S[-last:]]
        more_SK = weights_CK.gather(0, self._classes_SK[-last:])
        weights_SK = torch.cat([weights_SK[:, :1], weights_SK[:, 1:] + more_SK], dim=1).to(device)
        counts_SKV = self._counts_SKV[-last:].to(device)
        log_p_S1V = logits_SV.log_softmax(-1).clamp(min=SMALLEST)[:, None]
        likelier_SKV = (counts_SKV / PRIOR * (-log_p_S1V).exp()).log1p()
        likelier_SKV = likelier_SKV - (counts_SKV.sum(-1, keepdim=True) / PRIOR).log1p()
        return (weights_SK[..., None] * torch.cat([log_p_S1V, likelier_SKV], dim=1)).sum(dim=1)

    def step(self, gradients: list[Tensor]) -> None:
        """Change the weights, and forget the positions.

        Args:
            gradients: of the weights, from the summed losses of a piece.
        """
        with torch.no_grad():
            for weight, squares, gradient in zip(
                self.weights, self._squares, gradients, strict=True
            ):
                squares.addcmul_(gradient, gradient)
                weight -= self._rate * gradient / (1 + squares.sqrt())
        self._forget()
