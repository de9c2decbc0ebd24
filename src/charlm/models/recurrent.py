"""Recurrent: a network of plain, GRU or LSTM cells of which every part is a parameter.

    e_t = E[x_t] + P[x_{t-1}, x_t]       E: V x D; P: R x D, zeros at first; without it if R is 0
    h1_t = cell(e_t, h1_{t-1})           of width H
    h2_t = cell(h1_t, h2_{t-1})          and so on, for each further layer
    logits_t = W h_t + b                 W: V x H, of the last layer

    cell: rnn     h' = tanh(W_x x + W_h h + b)
    cell: gru     as in charlm.models.gru
    cell: lstm    as in charlm.models.lstm_scratch

Here the cells are torch's own, which is faster; `forget_bias` is added to the first biases of the
LSTM's forget gate, so that a cell begins by remembering.

Source: Elman, 1990; Cho et al., 2014; Hochreiter and Schmidhuber, 1997; Jozefowicz et al., "An
Empirical Exploration of Recurrent Network Architectures", 2015 (forget bias); charlm.models.lstm
for the pairs.

Shapes: B batch, T time, V vocabulary, D embedding width, H hidden width, L layers, R rows.
"""

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from charlm.config.schema import Count, Positive, Probability, Rate, Schema
from charlm.models.base import LanguageModel, PairEmbedding, State, over_time

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Architecture(Schema):
    """Sizes and parts of the network."""

    cell: Literal["rnn", "gru", "lstm"]
    embedding: Positive
    pair_rows: Count
    hidden: Positive
    layers: Positive
    forget_bias: Rate
    dropout: Probability

    @model_validator(mode="after")
    def _forgets(self) -> "Architecture":
        if self.forget_bias and self.cell != "lstm":
            raise ValueError(f"forget_bias must be 0 with cell: {self.cell} (no such gate)")
        return self


class Model(LanguageModel):
    """Embeddings, cells, linear.

    The state is what torch's layer carries, and the last id, B x 1; before a text there is the
    first symbol.
    """

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width, hidden, rows = architecture.embedding, architecture.hidden, architecture.pair_rows
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.pairs = PairEmbedding(vocabulary_size, rows, width) if rows else None
        self.layers = CELLS[architecture.cell](width, hidden, architecture.layers, batch_first=True)
        self.dropout = nn.Dropout1d(architecture.dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        if architecture.forget_bias:
            with torch.no_grad():
                for layer in range(architecture.layers):  # gates lie in the order i, f, g, o
                    bias = self.layers.get_parameter(f"bias_ih_l{layer}")
                    bias[hidden : 2 * hidden] += architecture.forget_bias

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros."""
        carried, last_B1 = (None, ids_BT.new_zeros(len(ids_BT), 1)) if state is None else state
        x_BTD = self.embedding(ids_BT)
        if self.pairs is not None:
            x_BTD = x_BTD + self.pairs(ids_BT, last_B1)
        hidden_BTH, carried = self.layers(x_BTD, carried)
        logits_BTV = self.output(over_time(self.dropout, hidden_BTH))
        return logits_BTV, (carried, ids_BT[:, -1:])
