"""MLP: the next character from one previous character, through one hidden layer.

    h_t = GELU(onehot(x_t) W1 + b1)        W1: V x H, b1: H
    logits_t = h_t W2 + b2                 W2: H x V, b2: V

Initialisation `normal`: all N(0, 1). The logits then have a standard deviation of about sqrt(H), so
that training starts at some 25 nats, six times worse than not knowing anything (ln 65 = 4.17).
Initialisation `normalised`: the same, then each matrix divided by its L2 norm over dim 0 and each
bias by its whole norm. Training starts at 4.17.

Source: the "perceptron to MLP" document (document C of docs/published.md).

Shapes: B batch, T time, V vocabulary, H hidden.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Size of the MLP and its first weights."""

    hidden: Positive
    initialisation: Literal["normal", "normalised"]


class Model(LanguageModel):
    """A table of hidden rows (a one-hot product is a look-up), GELU, a linear layer."""

    context_length = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.weight1_VH = nn.Parameter(torch.randn(vocabulary_size, hidden))
        self.bias1_H = nn.Parameter(torch.randn(hidden))
        self.weight2_HV = nn.Parameter(torch.randn(hidden, vocabulary_size))
        self.bias2_V = nn.Parameter(torch.randn(vocabulary_size))
        self.hidden = nn.GELU()
        if architecture.initialisation == "normalised":
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.div_(parameter.norm(dim=0, keepdim=True))

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Each character on its own; nothing is remembered."""
        hidden_BTH = self.hidden(functional.embedding(ids_BT, self.weight1_VH) + self.bias1_H)
        return hidden_BTH @ self.weight2_HV + self.bias2_V, None
