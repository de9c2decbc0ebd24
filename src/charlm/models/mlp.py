"""MLP: the next character from one previous character, through one hidden layer.

    h_t = GELU(onehot(x_t) W1 + b1)        W1: V x H, b1: H
    logits_t = h_t W2 + b2                 W2: H x V, b2: V        all N(0, 1)

Source: the "perceptron to MLP" document (section C of the table of sources). Its N(0, 1)
initialisation is kept on purpose: logits then have a standard deviation of about sqrt(H) / 1.5, so
that training starts at 25 nats, six times worse than not knowing anything (ln 65 = 4.17).

Shapes: B batch, T time, V vocabulary, H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.models.base import LanguageModel, State
from charlm.schema import Positive, Schema


class Architecture(Schema):
    """Sizes of the MLP."""

    hidden: Positive


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

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Each character on its own; nothing is remembered."""
        hidden_BTH = functional.gelu(functional.embedding(ids_BT, self.weight1_VH) + self.bias1_H)
        return hidden_BTH @ self.weight2_HV + self.bias2_V, None
