"""n-gram LSTM: an LSTM that corrects n-grams and a match model, and learns when to trust them.

    k_t = log p_n(. | x_{t-n+2}, ..., x_t)             interpolated modified Kneser-Ney of order n
    r_ct = log(1 + what followed the last characters   by length of the match: class c of C
               within the last M characters)           (charlm.ngrams.match_model)
    e_t = E[x_t] + P[x_{t-1}, x_t] + F exp(k_t)        E: V x D; P: R x D; F: D x V
    h_t, c_t = LSTM(e_t, (h_{t-1}, c_{t-1}))           of width H (torch.nn.LSTM)
    logits_t = W h_t + b + (a_0 . h_t + b_0) k_t       W: V x H; each a: H; at first b_0 is 1 and
               + sum over c of (a_c . h_t + b_c) r_ct  each other b_c 1/2

Counts overfit the text that they are of, and would leave nothing there to correct. So the features
of the training text are cross-fitted: it is cut into `folds` parts, and k in each part is of counts
of all the others. After training, k is of counts of the whole text. The match model always looks
back at the text before each character.

In training, dropout falls on e (`input_dropout`) and on h (`dropout`), on the same features at all
characters of a sequence.

Source: Li et al., "Residual Learning of Neural Text Generation with n-gram Language Model", 2022
(logits on top of an n-gram model's); Wolpert, "Stacked Generalization", 1992 (cross-fitted
predictions as another model's input); the rest as in charlm.ngrams.kneser_ney,
charlm.ngrams.match_model and charlm.models.lstm.

Shapes: N characters, B batch, T time, V vocabulary, D embedding width, H hidden width, R rows, C
classes of matches, K = 1 + C features, S past characters (at most M - 1).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import LanguageModel, PairEmbedding, State, over_time
from charlm.ngrams.match_model import followers
from charlm.ngrams.module import NgramCounts

CHARACTERS_PER_PASS = 8192
"""Characters whose features are computed in one call."""


class Architecture(Schema):
    """Sizes of the LSTM, of the n-grams under it, and how far back the match model looks."""

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


class Model(LanguageModel):
    """The state: (h, c), both 1 x B x H; the last id, B x 1; the n-grams' state; past ids, B x S.

    Before a text there is the first symbol.
    """

    context_length = None

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        width, hidden = architecture.embedding, architecture.hidden
        self.vocabulary, self.folds = vocabulary_size, architecture.folds
        self.reach, self.matches = architecture.reach, architecture.matches
        self.features = 1 + len(self.matches)
        self.ngrams = NgramCounts(vocabulary_size, architecture.order)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.pairs = PairEmbedding(vocabulary_size, architecture.pair_rows, width)
        self.prediction = nn.Linear(vocabulary_size, width, bias=False)
        self.input_dropout = nn.Dropout1d(architecture.input_dropout)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.dropout = nn.Dropout1d(architecture.dropout)
        self.correction = nn.Linear(hidden, vocabulary_size)
        self.trust = nn.Linear(hidden, self.features)
        with torch.no_grad():
            self.trust.bias.copy_(torch.tensor([1.0] + [0.5] * len(self.matches)))

    def recount(self, ids_N: Tensor) -> None:
        """Count all n-grams of a text."""
        self.ngrams.fit(ids_N)

    def prepare(
        self, ids_N: Tensor, advance: Callable[[int], object] = lambda characters: None
    ) -> Tensor:
        """Return cross-fitted features, (N - 1) x K x V in float16; then count the whole text."""
        targets = len(ids_N) - 1
        cuts = [1 + targets * fold // self.folds for fold in range(self.folds + 1)]
        shape = targets, self.features, self.vocabulary
        features_NKV = torch.empty(shape, dtype=torch.float16, device=ids_N.device)
        past_BS = None
        for first, last in pairwise(cuts):
            self.recount(torch.cat([ids_N[:first], ids_N[last:]]))
            before = ids_N[max(0, first - self.ngrams.context_length) : first - 1]
            state = self.ngrams(before[None])[1] if len(before) else None
            for start in range(first - 1, last - 1, CHARACTERS_PER_PASS):
                some = ids_N[start : min(start + CHARACTERS_PER_PASS, last - 1)]
                features_BTKV, state, past_BS = self._features(some[None], state, past_BS)
                features_NKV[start : start + len(some)] = features_BTKV[0]
                advance(len(some))
        self.recount(ids_N)
        return features_NKV

    def forward(
        self, ids_BT: Tensor, state: State = None, features_BTKV: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Go on from the carried state, or from zeros.

        Args:
            ids_BT: integers in [0, V).
            state: what an earlier call returned; None starts afresh.
            features_BTKV: rows of what `prepare` returned, in training; None computes them. A state
                then holds nothing of the n-grams.
        """
        if state is None:
            state = None, ids_BT.new_zeros(len(ids_BT), 1), None, None
        hidden, last_B1, ngram_state, past_BS = state
        if features_BTKV is None:
            features_BTKV, ngram_state, past_BS = self._features(ids_BT, ngram_state, past_BS)
        x_BTD = self.embedding(ids_BT) + self.pairs(ids_BT, last_B1)
        x_BTD = x_BTD + self.prediction(features_BTKV[:, :, 0].exp())
        h_BTH, hidden = self.lstm(over_time(self.input_dropout, x_BTD), hidden)
        h_BTH = over_time(self.dropout, h_BTH)
        trusted_BTV = (self.trust(h_BTH)[..., None] * features_BTKV).sum(dim=2)
        logits_BTV = self.correction(h_BTH) + trusted_BTV
        return logits_BTV, (hidden, ids_BT[:, -1:], ngram_state, past_BS)

    def _features(
        self, ids_BT: Tensor, ngram_state: State, past_BS: Tensor | None
    ) -> tuple[Tensor, State, Tensor]:
        """Return the features after each character, B x T x K x V, and both states."""
        logits_BTV, ngram_state = self.ngrams(ids_BT, ngram_state)
        if past_BS is None:
            past_BS = ids_BT[:, :0]
        all_BN = torch.cat([past_BS, ids_BT], dim=1)
        counts_BTCV = followers(
            all_BN.cpu().numpy(), ids_BT.shape[1], self.reach, self.matches, self.vocabulary
        )
        matches_BTCV = torch.from_numpy(np.log1p(counts_BTCV, dtype=np.float32))
        features_BTKV = torch.cat([logits_BTV[:, :, None], matches_BTCV.to(ids_BT.device)], dim=2)
        return features_BTKV, ngram_state, all_BN[:, max(0, all_BN.shape[1] - self.reach + 1) :]
