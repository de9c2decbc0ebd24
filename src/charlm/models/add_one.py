"""Add-one: the next character from n - 1, by counting, as if everything had been seen once more.

    p(w | h) = (c(h w) + 1) / (c(h) + V)

h is the n - 1 characters before w. A context that was never seen says nothing: p = 1 / V.

Source: Laplace, "Essai philosophique sur les probabilités", 1814 (the rule of succession); Chen and
Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999, who show how far
it falls behind; charlm.models.kneser_ney is what they recommend.

Shapes: N characters, B batch, T time, V vocabulary, S characters remembered (at most n - 1).
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State
from charlm.ngrams.add_one import AddOne
from charlm.ngrams.module import NgramCounts


class Architecture(Schema):
    """How long the n-grams are."""

    by_steps: ClassVar[bool] = False
    order: Annotated[int, Field(ge=1, le=16)]


class Model(LanguageModel):
    """The state is the ids of the last n - 1 characters, B x S."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.ngrams = NgramCounts(vocabulary_size, architecture.order, AddOne)
        self.context_length: int = self.ngrams.context_length

    def recount(self, ids_N: Tensor) -> None:
        """Count all n-grams of a text."""
        self.ngrams.fit(ids_N)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Look every context up; the logits are log-probabilities."""
        logits_BTV, state_BS = self.ngrams(ids_BT, state)
        return logits_BTV, state_BS
