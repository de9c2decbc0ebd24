"""LSTM: our own recurrent model, meant to be trained on contiguous streams with carried state.

    e_t = E[x_t] + P[x_{t-1}, x_t]                 E: V x D; P: R x D, zeros at first
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))       1 or more layers of width H (torch.nn.LSTM)
    logits_t = W h_t + b                           W: V x H

Each pair of characters has a row of P where V^2 rows are no more than R; otherwise pairs share rows
by a hash. The recurrence then need not learn what two characters mean together.

Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et
al., 2000; truncated back-propagation with carried state as in Graves, "Generating Sequences With
Recurrent Neural Networks", 2013; n-grams by a hash, Bojanowski et al., "Enriching Word Vectors with
Subword Information", 2017.

Shapes: B batch, T time, V vocabulary, D embedding width, H hidden width, R rows.
"""

import torch
from torch import Tensor, nn

from charlm.models.base import LanguageModel, State
from charlm.schema import Positive, Probability, Schema

GOLDEN = -7046029254386353131
"""2^64 divided by the golden ratio, as a signed number."""


class Architecture(Schema):
    """Sizes of the LSTM."""

    embedding: Positive
    pair_rows: Positive
    hidden: Positive
    layers: Positive
    dropout: Probability
    input_dropout: Probability


class Model(LanguageModel):
    """Embeddings, dropout, LSTM, dropout, linear.

    The state is (h, c), each layers x B x H, and the last id, B x 1; before a text there is the
    first symbol.
    """

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.embedding
        self.input_dropout = nn.Dropout(architecture.input_dropout)
        self.embedding = nn.Embedding(vocabulary_size, width)
        rows = min(architecture.pair_rows, vocabulary_size**2)
        self.pairs = nn.Embedding.from_pretrained(torch.zeros(rows, width), freeze=False)
        self.lstm = nn.LSTM(
            width,
            architecture.hidden,
            architecture.layers,
            batch_first=True,
            dropout=architecture.dropout if architecture.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(architecture.hidden, vocabulary_size)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros."""
        hidden, last_B1 = (None, ids_BT.new_zeros(len(ids_BT), 1)) if state is None else state
        before_BT = torch.cat([last_B1, ids_BT[:, :-1]], dim=1)
        embedded_BTD = self.embedding(ids_BT) + self.pairs(self._rows(before_BT, ids_BT))
        hidden_BTH, hidden = self.lstm(self.input_dropout(embedded_BTD), hidden)
        return self.output(self.dropout(hidden_BTH)), (hidden, ids_BT[:, -1:])

    def _rows(self, before_BT: Tensor, ids_BT: Tensor) -> Tensor:
        """Return the row of each pair."""
        size, rows = self.embedding.num_embeddings, self.pairs.num_embeddings
        codes_BT = before_BT * size + ids_BT
        # Fibonacci hashing: the product's upper bits depend on both symbols.
        return codes_BT if rows == size**2 else (codes_BT * GOLDEN >> 32) % rows
