"""GRU, written out gate by gate from its equations, as torch.nn.GRU defines it.

    r_t = sigmoid(x_t W_xr + b_xr + h_{t-1} W_hr + b_hr)          reset gate
    z_t = sigmoid(x_t W_xz + b_xz + h_{t-1} W_hz + b_hz)          update gate
    n_t = tanh(x_t W_xn + b_xn + r_t (h_{t-1} W_hn + b_hn))       candidate
    h_t = (1 - z_t) n_t + z_t h_{t-1}                             x_t is one-hot
    logits_t = dropout(h_t) W_o + b_o

All weights and biases uniform in ±1 / sqrt(H). A test compares it with torch.nn.GRU, gradients
included.

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014; announced,
but not shown, by the "RNN and LSTM from scratch" document (document E of docs/published.md).

Shapes: B batch, T time, V vocabulary, H hidden width; the gates lie side by side (3H), in the order
r, z, n.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Sizes of the GRU."""

    hidden: Positive
    dropout: Probability


class Model(LanguageModel):
    """One recurrent layer on one-hot characters; the state is h, B x H."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.weight_x_V3H = nn.Parameter(torch.empty(vocabulary_size, 3 * hidden))
        self.weight_h_H3H = nn.Parameter(torch.empty(hidden, 3 * hidden))
        self.bias_x_3H = nn.Parameter(torch.empty(3 * hidden))
        self.bias_h_3H = nn.Parameter(torch.empty(3 * hidden))
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried h, or from zeros."""
        hidden = self.weight_h_H3H.shape[0]
        # The input's share of all gates at once, before the loop: a one-hot product is a look-up.
        input_TB3H = functional.embedding(ids_BT.T, self.weight_x_V3H) + self.bias_x_3H
        h_BH = input_TB3H.new_zeros(ids_BT.shape[0], hidden) if state is None else state
        steps = []
        for input_B3H in input_TB3H.unbind(0):
            recurrent_B3H = torch.addmm(self.bias_h_3H, h_BH, self.weight_h_H3H)
            gates_B2H = (input_B3H[:, : 2 * hidden] + recurrent_B3H[:, : 2 * hidden]).sigmoid()
            reset_BH, update_BH = gates_B2H.chunk(2, 1)
            new_BH = (input_B3H[:, 2 * hidden :] + reset_BH * recurrent_B3H[:, 2 * hidden :]).tanh()
            h_BH = new_BH + update_BH * (h_BH - new_BH)
            steps.append(h_BH)
        return self.output(self.dropout(torch.stack(steps, dim=1))), h_BH
