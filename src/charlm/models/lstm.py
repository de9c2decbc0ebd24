"""LSTM: our own recurrent model, meant to be trained on contiguous streams with carried state.

    e_t = E[x_t] + P[x_{t-1}, x_t]                     E: V x D; P: R x D, zeros at first
    h1_t, c1_t = LSTM(e_t, (h1_{t-1}, c1_{t-1}))       of width H (torch.nn.LSTM)
    h2_t, c2_t = LSTM(h1_t, (h2_{t-1}, c2_{t-1}))      and so on, for each further layer
    logits_t = W [h1_t, h2_t, ...] + b                 W: V x LH: the head reads every layer

Because of P the recurrence need not learn what two characters mean together.

In training, dropout falls on e (`input_dropout`), between layers (`layer_dropout`), on what the
head reads (`dropout`), each time on the same features at all characters of a sequence, and on the
weights from h to the gates (`weight_dropout`), the same ones for all characters of a batch.

Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et
al., 2000; truncated back-propagation with carried state as in Graves, "Generating Sequences With
Recurrent Neural Networks", 2013; n-grams by a hash, Bojanowski et al., "Enriching Word Vectors with
Subword Information", 2017; a head that reads every layer, Graves, 2013; one mask of dropout for all
of a sequence, Gal and Ghahramani, 2016; dropped weights, Merity et al., "Regularizing and
Optimizing LSTM Language Models", 2018.

Shapes: B batch, T time, V vocabulary, D embedding width, H hidden width, L layers, R rows.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, PairEmbedding, State, over_time


class Architecture(Schema):
    """Sizes of the LSTM."""

    embedding: Positive
    pair_rows: Positive
    hidden: Positive
    layers: Positive
    dropout: Probability
    input_dropout: Probability
    layer_dropout: Probability
    weight_dropout: Probability


class Model(LanguageModel):
    """Embeddings, LSTM layers, linear.

    The state is (h, c) of each layer, all 1 x B x H, and the last id, B x 1; before a text there is
    the first symbol.
    """

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.embedding
        self.input_dropout = nn.Dropout1d(architecture.input_dropout)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.pairs = PairEmbedding(vocabulary_size, architecture.pair_rows, width)
        inputs = [width] + [architecture.hidden] * (architecture.layers - 1)
        self.layers = nn.ModuleList(
            nn.LSTM(size, architecture.hidden, batch_first=True) for size in inputs
        )
        self.layer_dropout = nn.Dropout1d(architecture.layer_dropout)
        self.weight_dropout = architecture.weight_dropout
        self.dropout = nn.Dropout1d(architecture.dropout)
        self.output = nn.Linear(architecture.layers * architecture.hidden, vocabulary_size)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros."""
        if state is None:
            state = (None,) * len(self.layers), ids_BT.new_zeros(len(ids_BT), 1)
        states, last_B1 = state
        x_BTD = self.embedding(ids_BT) + self.pairs(ids_BT, last_B1)
        x_BTD = over_time(self.input_dropout, x_BTD)
        read, carried = [], []
        for layer, before in zip(self.layers, states, strict=True):
            x_BTD, after = self._run(cast(nn.LSTM, layer), x_BTD, before)
            read.append(x_BTD)
            carried.append(after)
            x_BTD = over_time(self.layer_dropout, x_BTD)
        logits_BTV = self.output(over_time(self.dropout, torch.cat(read, dim=2)))
        return logits_BTV, (tuple(carried), ids_BT[:, -1:])

    def _run(self, layer: nn.LSTM, x_BTD: Tensor, state: State) -> tuple[Tensor, State]:
        """Run one layer, in training without some of the weights from h."""
        if not (self.training and self.weight_dropout):
            hidden_BTH, state = layer(x_BTD, state)
            return hidden_BTH, state
        if state is None:
            zeros_1BH = x_BTD.new_zeros(1, len(x_BTD), layer.hidden_size)
            state = zeros_1BH, zeros_1BH
        weight_x, weight_h, *biases = layer.all_weights[0]
        weights = [weight_x, functional.dropout(weight_h, self.weight_dropout), *biases]
        hidden_BTH, h_1BH, c_1BH = torch.lstm(
            x_BTD, state, weights, True, 1, 0.0, True, False, True
        )
        return hidden_BTH, (h_1BH, c_1BH)
