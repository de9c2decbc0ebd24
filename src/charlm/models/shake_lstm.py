"""ShakeLSTM: embedding, layer norm, a two-layer LSTM with dropout, a linear layer.

    e_t = LayerNorm(E[x_t])                                    E: V x D, uniform ±0.1
    h_t = LSTM(e), two layers of width H, dropout between      weights uniform ±0.1; biases 0, but
                                                               the forget quarter of both vectors 1
    logits_t = W dropout(h_t) + b                              W: V x H, uniform ±0.1; b 0

Source: the entropy notebook's `ShakeLSTM` (document A of docs/published.md); a forget gate that
starts open is Gers et al., 2000, and Jozefowicz et al., 2015.

Shapes: B batch, T time, V vocabulary, D embedding width, H hidden width.
"""

import torch
from torch import Tensor, nn

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """Sizes of ShakeLSTM."""

    embedding: Positive
    hidden: Positive
    layers: Positive
    dropout: Probability


class Model(LanguageModel):
    """The state is (h, c), each layers x B x H."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        hidden = architecture.hidden
        self.embedding = nn.Embedding(vocabulary_size, architecture.embedding)
        self.norm = nn.LayerNorm(architecture.embedding)
        self.lstm = nn.LSTM(
            architecture.embedding,
            hidden,
            architecture.layers,
            batch_first=True,
            dropout=architecture.dropout if architecture.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.output.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                nn.init.uniform_(parameter, -0.1, 0.1)
            else:
                nn.init.zeros_(parameter)
                with torch.no_grad():
                    parameter[hidden : 2 * hidden] = 1.0

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried (h, c), or from zeros."""
        hidden_BTH, state = self.lstm(self.norm(self.embedding(ids_BT)), state)
        return self.output(self.dropout(hidden_BTH)), state
