"""Bigram: the next character from one previous character, by a table of logits.

    logits_t = E[x_t]        E: V x V, N(0, 1)

Source: the "bigram to self-attention" document (document D of docs/published.md); after Karpathy,
"Let's build GPT", 2023. Trained long enough it is the conditional relative frequency, and its loss
the conditional entropy H(X | 1 previous).

Shapes: B batch, T time, V vocabulary.
"""

from torch import Tensor, nn

from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """The vocabulary alone sets the size."""


class Model(LanguageModel):
    """An embedding of width V, read as logits; V * V parameters."""

    context_length = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.logits = nn.Embedding(vocabulary_size, vocabulary_size)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Look up one row of logits a character; nothing is remembered."""
        return self.logits(ids_BT), None
