"""Interpolated modified Kneser-Ney of order n: the next character from n - 1, by counting.

    p_n(w | h) = max(c(h w) - D(c(h w)), 0) / c(h)  +  g(h) p_(n-1)(w | h')

The equations, the discounts and their fallback are in charlm.ngrams.kneser_ney; this is their place
in the zoo. The weights are the n-grams and their counts, order by order.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999.

Shapes: N characters, B batch, T time, V vocabulary, S characters remembered (at most n - 1).
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from charlm.config.schema import Schema
from charlm.models.base import CountingModel, State
from charlm.ngrams.kneser_ney import KneserNey, Level, counts


class Architecture(Schema):
    """How long the n-grams are."""

    order: Annotated[int, Field(ge=1, le=16)]


class Model(CountingModel):
    """The state is the ids of the last n - 1 characters, B x S."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.vocabulary = vocabulary_size
        self.order = architecture.order
        self.context_length: int = max(1, self.order - 1)
        for n in range(1, self.order + 1):
            self.register_buffer(f"codes_{n}", torch.empty(0, dtype=torch.int64))
            self.register_buffer(f"counts_{n}", torch.empty(0, dtype=torch.int64))

    def fit(self, ids_N: Tensor) -> None:
        """Count all n-grams; orders longer than the text stay empty."""
        levels = counts(ids_N.cpu().numpy(), self.vocabulary, self.order).model(self.order).levels
        for n, level in enumerate(levels, start=1):
            self.register_buffer(f"codes_{n}", torch.from_numpy(level.codes_G))
            self.register_buffer(f"counts_{n}", torch.from_numpy(level.counts_G))
        self.prepare()

    def prepare(self) -> None:
        """Work out discounts and shares; a code must name a context that is there."""
        levels, contexts = [], 1
        for n in range(1, self.order + 1):
            codes_G, counts_G = (
                self.get_buffer(f"{kind}_{n}").cpu().numpy() for kind in ("codes", "counts")
            )
            if codes_G.dtype != np.int64 or codes_G.shape != counts_G.shape or codes_G.ndim != 1:
                raise ValueError(f"codes_{n} and counts_{n} must be int64 vectors of one length")
            if not len(codes_G):
                break
            inside = codes_G[0] >= 0 and codes_G[-1] < contexts * self.vocabulary
            if not inside or (np.diff(codes_G) <= 0).any() or (counts_G < 0).any():
                raise ValueError(f"order {n} holds n-grams that cannot be")
            levels.append(Level(codes_G, counts_G))
            contexts = len(codes_G)
        if not levels:
            raise ValueError("no n-grams")
        self._model = KneserNey(levels, self.vocabulary)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Look every context up; the logits are log-probabilities."""
        seen_BS = ids_BT[:, :0] if state is None else state
        all_BN = torch.cat([seen_BS, ids_BT], dim=1)
        places = self._model.places(all_BN.cpu().numpy())
        new = [place_BN[:, seen_BS.shape[1] :].reshape(-1) for place_BN in places]
        logits = torch.from_numpy(np.log(self._model.probabilities(new)).astype(np.float32))
        remembered = all_BN[:, max(0, all_BN.shape[1] - self.context_length) :]
        return logits.view(*ids_BT.shape, -1).to(ids_BT.device), remembered
