"""LSTM: our own recurrent model, meant to be trained on contiguous streams with carried state.

    e_t = E[x_t]                                   E: V x D
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))       1 or more layers of width H (torch.nn.LSTM)
    logits_t = W h_t + b                           W: V x H

Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et
al., 2000; truncated back-propagation with carried state as in Graves, "Generating Sequences With
Recurrent Neural Networks", 2013.

Shapes: B batch, T time, V vocabulary, D embedding width, H hidden width.
"""

from torch import Tensor, nn

from charlm.models.base import LanguageModel, State
from charlm.schema import Positive, Probability, Schema


class Architecture(Schema):
    """Sizes of the LSTM."""

    embedding: Positive
    hidden: Positive
    layers: Positive
    dropout: Probability


class Model(LanguageModel):
    """Embedding, dropout, LSTM, dropout, linear; the state is (h, c), each layers x B x H."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, architecture.embedding)
        self.lstm = nn.LSTM(
            architecture.embedding,
            architecture.hidden,
            architecture.layers,
            batch_first=True,
            dropout=architecture.dropout if architecture.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.output = nn.Linear(architecture.hidden, vocabulary_size)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried (h, c), or from zeros."""
        hidden_BTH, state = self.lstm(self.dropout(self.embedding(ids_BT)), state)
        return self.output(self.dropout(hidden_BTH)), state
