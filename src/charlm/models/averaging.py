"""Averaging: the next character from the mean of the characters so far.

    m_t = (E[x_1] + ... + E[x_t]) / t        E: V x D
    logits_t = W m_t + b                     W: V x D

The mean over the prefix is what a matrix product with a row-normalised triangle computes, or
attention whose scores are all equal: the ladder's rungs (1) to (3). Here it is the matrix product
(a cumulative sum is not deterministic on CUDA) behind a running sum, which makes one more character
cost the same however many came before.

Source: the "bigram to self-attention" document (document D of docs/published.md).

Shapes: B batch, T time, V vocabulary, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.schema import Positive, Schema
from charlm.models.base import BlockModel


class Architecture(Schema):
    """Sizes of the averaging model."""

    width: Positive


class Model(BlockModel):
    """Embedding, causal mean, linear; the cache is the sum so far, B x D."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__(block)
        self.embedding = nn.Embedding(vocabulary_size, architecture.width)
        self.output = nn.Linear(architecture.width, vocabulary_size)

    def extend(self, ids_BT: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Add the new characters to the sum, one after the other."""
        x_BTD = self.embedding(ids_BT)
        time = ids_BT.shape[1]
        sum_BTD = x_BTD.new_ones(time, time).tril() @ x_BTD
        if cache is not None:
            sum_BTD = sum_BTD + cache[:, None]
        count_T = torch.arange(start + 1, start + 1 + time, device=ids_BT.device)
        return self.output(sum_BTD / count_T[:, None]), sum_BTD[:, -1]
