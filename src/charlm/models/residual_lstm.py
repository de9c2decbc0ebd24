"""LSTM on top of n-grams: it learns what counting leaves, and how far to trust the counts.

    k_t = log p_n(. | x_{t-n+2}, ..., x_t)             interpolated modified Kneser-Ney of order n
    e_t = E[x_t] + P[x_{t-1}, x_t] + F exp(k_t)        E: V x D; P: R x D; F: D x V
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))           of width H (torch.nn.LSTM)
    logits_t = W h_t + b + (a . h_t + a_0) k_t         W: V x H; a: H; a_0 is 1 at first

Counts know their own text by heart, so that nothing could be learned from what they say of it. The
training text is therefore cut into `folds` parts, and k is of counts of all the other parts; after
training, it is of counts of the whole.

In training, dropout falls on e (`input_dropout`) and on h (`dropout`), on the same features at all
characters of a sequence.

Source: Li et al., "Residual Learning of Neural Text Generation with n-gram Language Model", 2022
(logits on top of an n-gram model's); Wolpert, "Stacked Generalization", 1992 (what one learner says
of parts that it was not fitted on, as another's input); the rest as in charlm.models.kneser_ney and
charlm.models.lstm.

Shapes: N characters, B batch, T time, V vocabulary, D embedding width, H hidden width, R rows.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from charlm.models import kneser_ney
from charlm.models.base import PairEmbedding, ResidualModel, State, over_time
from charlm.schema import Positive, Probability, Schema

CHARACTERS_A_PASS = 8192
"""Characters that the base is asked about in one call."""


class Architecture(Schema):
    """Sizes of the LSTM, and the counts under it."""

    order: Annotated[int, Field(ge=1, le=16)]
    folds: Annotated[int, Field(ge=2, le=100)]
    embedding: Positive
    pair_rows: Positive
    hidden: Positive
    dropout: Probability
    input_dropout: Probability


class Model(ResidualModel):
    """The state is (h, c), both 1 x B x H, the last id, B x 1, and that of the n-grams.

    Before a text there is the first symbol.
    """

    base: kneser_ney.Model
    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width, hidden = architecture.embedding, architecture.hidden
        self.folds = architecture.folds
        self.base = kneser_ney.Model(
            vocabulary_size, block, kneser_ney.Architecture(order=architecture.order)
        )
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.pairs = PairEmbedding(vocabulary_size, architecture.pair_rows, width)
        self.expectation = nn.Linear(vocabulary_size, width, bias=False)
        self.input_dropout = nn.Dropout1d(architecture.input_dropout)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.dropout = nn.Dropout1d(architecture.dropout)
        self.correction = nn.Linear(hidden, vocabulary_size)
        self.trust = nn.Linear(hidden, 1)
        nn.init.ones_(self.trust.bias)

    def study(
        self, ids_N: Tensor, advance: Callable[[int], object] = lambda characters: None
    ) -> Tensor:
        """Fit the n-grams on a text, and return what those of other parts say of each part."""
        targets = len(ids_N) - 1
        cuts = [1 + targets * fold // self.folds for fold in range(self.folds + 1)]
        parts = []
        for first, last in pairwise(cuts):
            self.base.fit(torch.cat([ids_N[:first], ids_N[last:]]))
            before = ids_N[max(0, first - self.base.context_length) : first - 1]
            state = self.base(before[None])[1] if len(before) else None
            for some in ids_N[first - 1 : last - 1].split(CHARACTERS_A_PASS):
                logits_BTV, state = self.base(some[None], state)
                parts.append(logits_BTV[0].half())
                advance(len(some))
        self.base.fit(ids_N)
        return torch.cat(parts)

    def forward(
        self, ids_BT: Tensor, state: State = None, expected_BTV: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros."""
        if state is None:
            state = None, ids_BT.new_zeros(len(ids_BT), 1), None
        before, last_B1, seen = state
        if expected_BTV is None:
            expected_BTV, seen = self.base(ids_BT, seen)
        x_BTD = self.embedding(ids_BT) + self.pairs(ids_BT, last_B1)
        x_BTD = x_BTD + self.expectation(expected_BTV.exp())
        h_BTH, after = self.lstm(over_time(self.input_dropout, x_BTD), before)
        h_BTH = over_time(self.dropout, h_BTH)
        logits_BTV = self.correction(h_BTH) + self.trust(h_BTH) * expected_BTV
        return logits_BTV, (after, ids_BT[:, -1:], seen)
