"""RNN: the plain recurrent network, written out from its equation.

    h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h)        W_xh: V x H, W_hh: H x H (x_t is one-hot)
    logits_t = dropout(h_t) W_o + b_o                W_o: H x V

Weights Xavier-uniform, biases zero. torch.nn.RNN with its second bias at zero is the same function,
which a test compares, gradients included.

Source: the "RNN and LSTM from scratch" document (document E of docs/published.md); Elman,
"Finding Structure in Time", 1990; Glorot and Bengio, 2010.

Shapes: B batch, T time, V vocabulary, H hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Sizes of the RNN."""

    hidden: Positive
    dropout: Probability


class Model(LanguageModel):
    """One recurrent layer on one-hot characters; the state is h, B x H."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.weight_xh_VH = nn.Parameter(torch.empty(vocabulary_size, hidden))
        self.weight_hh_HH = nn.Parameter(torch.empty(hidden, hidden))
        self.bias_h_H = nn.Parameter(torch.zeros(hidden))
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        for weight in (self.weight_xh_VH, self.weight_hh_HH, self.output.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried h, or from zeros."""
        # A one-hot product is a look-up, done for all T at once; time-major, so that each step
        # reads and writes memory that lies together.
        input_TBH = functional.embedding(ids_BT.T, self.weight_xh_VH) + self.bias_h_H
        h_BH = torch.zeros_like(input_TBH[0]) if state is None else state
        steps = []
        for input_BH in input_TBH.unbind(0):
            h_BH = torch.addmm(input_BH, h_BH, self.weight_hh_HH).tanh()
            steps.append(h_BH)
        hidden_BTH = torch.stack(steps, dim=1)
        return self.output(self.dropout(hidden_BTH)), h_BH
