"""Perceptron: the next character from one previous character, one linear layer.

    logits_t = onehot(x_t) W + b        W: V x V, b: V, all N(0, 1)

Source: the "perceptron to MLP" document (document C of docs/published.md), which trains it for 10
steps on all pairs at once (5.2003 to 5.1941 nats) and for 10,000 on batches of 1,024 (to 3.38). It
multiplies one-hot vectors (`input: one_hot`), which picks a row of W; `look_up` takes the row.

Shapes: B batch, T time, V vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """How a character is read; the vocabulary alone sets the size."""

    input: Literal["look_up", "one_hot"]


class Model(LanguageModel):
    """A table of rows and a bias."""

    context_length = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.one_hot = architecture.input == "one_hot"
        self.weight_VV = nn.Parameter(torch.randn(vocabulary_size, vocabulary_size))
        self.bias_V = nn.Parameter(torch.randn(vocabulary_size))

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Each character on its own; nothing is remembered."""
        if self.one_hot:
            inputs_BTV = functional.one_hot(ids_BT, len(self.weight_VV)).to(self.weight_VV.dtype)
            return inputs_BTV @ self.weight_VV + self.bias_V, None
        return functional.embedding(ids_BT, self.weight_VV) + self.bias_V, None
