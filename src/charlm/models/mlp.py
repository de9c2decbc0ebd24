"""MLP: the next character from one previous character or a few, through one hidden layer.

    h_t = GELU(onehot(x_t) W1[0] + ... + onehot(x_{t-C+1}) W1[C-1] + b1)     W1: C x V x H, b1: H
    logits_t = h_t W2 + b2                                                   W2: H x V, b2: V

C is `context`. A product of several one-hot vectors side by side is this sum of look-ups; before a
text there is nothing to add.

Initialisation `normal`: all N(0, 1). The logits then have a standard deviation of about sqrt(H), so
that training starts at some 25 nats, six times worse than not knowing anything (ln 65 = 4.17).
Initialisation `normalised`: the same, then each matrix divided by its L2 norm over dim 0 and each
bias by its whole norm. Training starts at 4.17.

Source: the "perceptron to MLP" document (document C of docs/published.md), with one character;
Bengio et al., "A Neural Probabilistic Language Model", 2003, with several.

Shapes: B batch, T time, V vocabulary, H hidden, C context, S past characters (at most C - 1).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Size of the MLP, the characters that it reads and its first weights."""

    hidden: Positive
    context: Annotated[int, Field(ge=1, le=64)]
    initialisation: Literal["normal", "normalised"]


class Model(LanguageModel):
    """A table of hidden rows for each place of the context, GELU, a linear layer.

    The state is the ids of the last C - 1 characters, B x S; None with a context of one.
    """

    context_length: int

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden, self.context_length = architecture.hidden, architecture.context
        rows = architecture.context * vocabulary_size
        self.vocabulary = vocabulary_size
        self.weight1_VH = nn.Parameter(torch.randn(rows, hidden))
        self.bias1_H = nn.Parameter(torch.randn(hidden))
        self.weight2_HV = nn.Parameter(torch.randn(hidden, vocabulary_size))
        self.bias2_V = nn.Parameter(torch.randn(vocabulary_size))
        self.hidden = nn.GELU()
        if architecture.initialisation == "normalised":
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.div_(parameter.norm(dim=0, keepdim=True))

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Read each character and those before it, as far as the context goes."""
        past_BS = ids_BT[:, :0] if state is None else state
        all_BN = torch.cat([past_BS, ids_BT], dim=1)
        inputs_BTH = functional.embedding(ids_BT, self.weight1_VH) + self.bias1_H
        for back in range(1, self.context_length):
            # Characters before the text add nothing.
            last = max(0, all_BN.shape[1] - back)
            before_BN = all_BN[:, max(0, past_BS.shape[1] - back) : last]
            rows_BNH = functional.embedding(before_BN + back * self.vocabulary, self.weight1_VH)
            missing = inputs_BTH.shape[1] - rows_BNH.shape[1]
            inputs_BTH = inputs_BTH + functional.pad(rows_BNH, (0, 0, missing, 0))
        logits_BTV = self.hidden(inputs_BTH) @ self.weight2_HV + self.bias2_V
        remembered_BS = all_BN[:, max(0, all_BN.shape[1] - self.context_length + 1) :]
        return logits_BTV, remembered_BS if self.context_length > 1 else None
