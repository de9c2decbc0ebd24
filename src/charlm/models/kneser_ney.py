"""Interpolated modified Kneser-Ney of order n: the next character from n - 1, by counting.

    p_n(w | h) = max(c(h w) - D(c(h w)), 0) / c(h)  +  g(h) p_(n-1)(w | h')

The equations, the discounts and their fallback are in charlm.ngrams.kneser_ney; this is their place
in the zoo. What is saved are the n-grams and their counts, order by order.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999.

Shapes: N characters, B batch, T time, V vocabulary, S characters remembered (at most n - 1).
"""

import functools
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State
from charlm.ngrams.kneser_ney import KneserNey
from charlm.ngrams.module import NgramCounts


class Architecture(Schema):
    """How long the n-grams are, and how they are smoothed.

    Attributes:
        order: n of the longest.
        discounts: one for each order, or three: for counts of 1, of 2 and of more.
        continuation: whether lower orders count what comes before; otherwise occurrences.
    """

    by_steps: ClassVar[bool] = False
    order: Annotated[int, Field(ge=1, le=16)]
    discounts: Literal[1, 3]
    continuation: bool


class Model(LanguageModel):
    """The state is the ids of the last n - 1 characters, B x S."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        smoothing = functools.partial(KneserNey, kinds=architecture.discounts)
        self.ngrams = NgramCounts(
            vocabulary_size, architecture.order, smoothing, architecture.continuation
        )
        self.context_length: int = self.ngrams.context_length

    def recount(self, ids_N: Tensor) -> None:
        """Count all n-grams of a text."""
        self.ngrams.fit(ids_N)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Look every context up; the logits are log-probabilities."""
        logits_BTV, state_BS = self.ngrams(ids_BT, state)
        return logits_BTV, state_BS
