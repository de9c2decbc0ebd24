"""LSTM, written out gate by gate from its equations.

    i_t = sigmoid(x_t W_xi + b_xi + h_{t-1} W_hi + b_hi)        input gate
    f_t = sigmoid(x_t W_xf + b_xf + h_{t-1} W_hf + b_hf)        forget gate
    g_t = tanh   (x_t W_xg + b_xg + h_{t-1} W_hg + b_hg)        candidate
    o_t = sigmoid(x_t W_xo + b_xo + h_{t-1} W_ho + b_ho)        output gate
    c_t = f_t c_{t-1} + i_t g_t,    h_t = o_t tanh(c_t)         x_t is one-hot
    logits_t = dropout(r_t) W_o + b_o

The readout r_t is h_t. The document's head reads o_t instead, the output gate before it is applied;
`readout: output_gate` reproduces that slip. All weights and biases uniform in ±1 / sqrt(H). With
`hidden` it is torch.nn.LSTM, which a test compares, gradients included.

Source: the "RNN and LSTM from scratch" document (document E of docs/published.md); Hochreiter and
Schmidhuber, 1997; Gers et al., 2000.

Shapes: B batch, T time, V vocabulary, H hidden width; the four gates lie side by side (4H), in the
order i, f, g, o.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Sizes of the LSTM, and what its head reads."""

    hidden: Positive
    dropout: Probability
    readout: Literal["hidden", "output_gate"]


class Model(LanguageModel):
    """One recurrent layer on one-hot characters; the state is (h, c), each B x H."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.readout = architecture.readout
        self.weight_x_V4H = nn.Parameter(torch.empty(vocabulary_size, 4 * hidden))
        self.weight_h_H4H = nn.Parameter(torch.empty(hidden, 4 * hidden))
        self.bias_x_4H = nn.Parameter(torch.empty(4 * hidden))
        self.bias_h_4H = nn.Parameter(torch.empty(4 * hidden))
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried (h, c), or from zeros."""
        # The input's share of all gates at once, before the loop: a one-hot product is a look-up.
        input_TB4H = functional.embedding(ids_BT.T, self.weight_x_V4H)
        input_TB4H = input_TB4H + (self.bias_x_4H + self.bias_h_4H)
        if state is None:
            h_BH = input_TB4H.new_zeros(ids_BT.shape[0], self.weight_h_H4H.shape[0])
            state = h_BH, h_BH
        h_BH, c_BH = state
        read = []
        for input_B4H in input_TB4H.unbind(0):
            i_BH, f_BH, g_BH, o_BH = torch.addmm(input_B4H, h_BH, self.weight_h_H4H).chunk(4, 1)
            o_BH = o_BH.sigmoid()
            c_BH = f_BH.sigmoid() * c_BH + i_BH.sigmoid() * g_BH.tanh()
            h_BH = o_BH * c_BH.tanh()
            read.append(h_BH if self.readout == "hidden" else o_BH)
        return self.output(self.dropout(torch.stack(read, dim=1))), (h_BH, c_BH)
