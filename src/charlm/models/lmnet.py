"""LMNet: an embedding, one LSTM layer of the same width, a linear layer.

    e_t = E[x_t]                                  E: V x D
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))      torch.nn.LSTM, D wide
    logits_t = W h_t + b                          W: V x D

Source: the "LMNet" document (document B of docs/published.md), which trains it on random windows
of 256 characters; its n_embd is 32 in the shape demo and not legible for the training run.

Shapes: B batch, T time, V vocabulary, D width.
"""

from torch import Tensor, nn

from charlm.config.schema import Positive, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """The one size of LMNet."""

    n_embd: Positive


class Model(LanguageModel):
    """Embedding, LSTM, linear; the state is (h, c), each 1 x B x D."""

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.n_embd
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.output = nn.Linear(width, vocabulary_size)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Go on from the carried (h, c), or from zeros."""
        hidden_BTD, state = self.lstm(self.embedding(ids_BT), state)
        return self.output(hidden_BTD), state
