"""LSTM on top of n-grams and an exact memory: it learns what they leave, and when to trust them.

    k_t = log p_n(. | x_{t-n+2}, ..., x_t)             interpolated modified Kneser-Ney of order n
    r_ct = log(1 + what followed the last characters   by how many of them agree: class c of C
               within the last M characters)           (charlm.ngrams.match_model)
    e_t = E[x_t] + P[x_{t-1}, x_t] + F exp(k_t)        E: V x D; P: R x D; F: D x V
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))           of width H (torch.nn.LSTM)
    logits_t = W h_t + b + (a_0 . h_t + b_0) k_t       W: V x H; each a: H; at first b_0 is 1 and
               + sum over c of (a_c . h_t + b_c) r_ct  each other b_c 1/2

Counts know their own text by heart, so that nothing could be learned from what they say of it. The
training text is therefore cut into `folds` parts, and k is of counts of all the other parts; after
training, it is of counts of the whole. What was just said is before each character in either case.

In training, dropout falls on e (`input_dropout`) and on h (`dropout`), on the same features at all
characters of a sequence.

Source: Li et al., "Residual Learning of Neural Text Generation with n-gram Language Model", 2022
(logits on top of an n-gram model's); Wolpert, "Stacked Generalization", 1992 (what one learner says
of parts that it was not fitted on, as another's input); the rest as in charlm.models.kneser_ney,
charlm.ngrams.match_model and charlm.models.lstm.

Shapes: N characters, B batch, T time, V vocabulary, D embedding width, H hidden width, R rows, C
classes, K = 1 + C sources; S characters remembered (at most M - 1).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from charlm.config.schema import Positive, Probability, Schema
from charlm.models import kneser_ney
from charlm.models.base import PairEmbedding, ResidualModel, State, over_time
from charlm.ngrams.match_model import followers

CHARACTERS_A_PASS = 8192
"""Characters that n-grams and memory are asked about in one call."""


class Architecture(Schema):
    """Sizes of the LSTM, the counts under it, and how far back it remembers every character."""

    order: Annotated[int, Field(ge=1, le=16)]
    folds: Annotated[int, Field(ge=2, le=100)]
    reach: Annotated[int, Field(ge=0, le=65536)]
    matches: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=8)]
    embedding: Positive
    pair_rows: Positive
    hidden: Positive
    dropout: Probability
    input_dropout: Probability

    @field_validator("matches")
    @classmethod
    def _ascending(cls, matches: list[int]) -> list[int]:
        if matches != sorted(set(matches)):
            raise ValueError(f"must ascend, as [3, 5, 8] does, not {matches}")
        return matches


class Model(ResidualModel):
    """The state is (h, c), both 1 x B x H, the last id, B x 1, that of the n-grams, and ids, B x S.

    Before a text there is the first symbol.
    """

    base: kneser_ney.Model
    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width, hidden = architecture.embedding, architecture.hidden
        self.vocabulary, self.folds = vocabulary_size, architecture.folds
        self.reach, self.matches = architecture.reach, architecture.matches
        self.sources = 1 + len(self.matches)
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
        self.trust = nn.Linear(hidden, self.sources)
        with torch.no_grad():
            self.trust.bias.copy_(torch.tensor([1.0] + [0.5] * len(self.matches)))

    def study(
        self, ids_N: Tensor, advance: Callable[[int], object] = lambda characters: None
    ) -> Tensor:
        """Fit the n-grams; return what those of other parts and the memory say of each part."""
        targets = len(ids_N) - 1
        cuts = [1 + targets * fold // self.folds for fold in range(self.folds + 1)]
        shape = targets, self.sources, self.vocabulary
        expected_NKV = torch.empty(shape, dtype=torch.float16, device=ids_N.device)
        remembered_BS = None
        for first, last in pairwise(cuts):
            self.base.fit(torch.cat([ids_N[:first], ids_N[last:]]))
            before = ids_N[max(0, first - self.base.context_length) : first - 1]
            state = self.base(before[None])[1] if len(before) else None
            for start in range(first - 1, last - 1, CHARACTERS_A_PASS):
                some = ids_N[start : min(start + CHARACTERS_A_PASS, last - 1)]
                expected_BTKV, state, remembered_BS = self._ask(some[None], state, remembered_BS)
                expected_NKV[start : start + len(some)] = expected_BTKV[0]
                advance(len(some))
        self.base.fit(ids_N)
        return expected_NKV

    def forward(
        self, ids_BT: Tensor, state: State = None, expected_BTKV: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros."""
        if state is None:
            state = None, ids_BT.new_zeros(len(ids_BT), 1), None, None
        before, last_B1, seen, remembered_BS = state
        if expected_BTKV is None:
            expected_BTKV, seen, remembered_BS = self._ask(ids_BT, seen, remembered_BS)
        x_BTD = self.embedding(ids_BT) + self.pairs(ids_BT, last_B1)
        x_BTD = x_BTD + self.expectation(expected_BTKV[:, :, 0].exp())
        h_BTH, after = self.lstm(over_time(self.input_dropout, x_BTD), before)
        h_BTH = over_time(self.dropout, h_BTH)
        trusted_BTV = (self.trust(h_BTH)[..., None] * expected_BTKV).sum(dim=2)
        logits_BTV = self.correction(h_BTH) + trusted_BTV
        return logits_BTV, (after, ids_BT[:, -1:], seen, remembered_BS)

    def _ask(
        self, ids_BT: Tensor, seen: State, remembered_BS: Tensor | None
    ) -> tuple[Tensor, State, Tensor]:
        """Return what n-grams and memory say after each character, B x T x K x V, and states."""
        logits_BTV, seen = self.base(ids_BT, seen)
        if remembered_BS is None:
            remembered_BS = ids_BT[:, :0]
        all_BN = torch.cat([remembered_BS, ids_BT], dim=1)
        counts_BTCV = followers(
            all_BN.cpu().numpy(), ids_BT.shape[1], self.reach, self.matches, self.vocabulary
        )
        memory_BTCV = torch.from_numpy(np.log1p(counts_BTCV, dtype=np.float32))
        expected_BTKV = torch.cat([logits_BTV[:, :, None], memory_BTCV.to(ids_BT.device)], dim=2)
        return expected_BTKV, seen, all_BN[:, max(0, all_BN.shape[1] - self.reach + 1) :]
