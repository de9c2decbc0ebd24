"""Attention: one masked, scaled self-attention head on token and position embeddings.

    x_t = E[c_t] + P[t]                                      E: V x D, P: block x D
    q_t = W_q x_t,  k_t = W_k x_t,  v_t = W_v x_t            each K x D, no bias
    o_t = sum over s <= t of softmax_s(q_t . k_s / sqrt(K)) v_s
    logits_t = W o_t + b                                     W: V x K

Source: the "bigram to self-attention" document (document D of docs/published.md), the ladder's
rung (4), whose head size is 16; Vaswani et al., "Attention Is All You Need", 2017.

Shapes: B batch, T time, S cached time, V vocabulary, D width, K head size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.schema import Positive, Schema
from charlm.models.base import BlockModel


class Architecture(Schema):
    """Sizes of the attention model; the table of positions has the training block's length."""

    width: Positive
    head_size: Positive


class Model(BlockModel):
    """Two embeddings, one head, linear; the cache is keys and values, each B x S x K."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__(block)
        width, head_size = architecture.width, architecture.head_size
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(block, width)
        self.query = nn.Linear(width, head_size, bias=False)
        self.key = nn.Linear(width, head_size, bias=False)
        self.value = nn.Linear(width, head_size, bias=False)
        self.output = nn.Linear(head_size, vocabulary_size)

    def extend(self, ids_BT: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Attend from the new characters to the cached ones and to each other, never ahead."""
        time = ids_BT.shape[1]
        positions_T = torch.arange(start, start + time, device=ids_BT.device)
        x_BTD = self.embedding(ids_BT) + self.positions(positions_T)
        query_BTK, key_BSK, value_BSK = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        if cache is not None:
            key_BSK = torch.cat([cache[0], key_BSK], dim=1)
            value_BSK = torch.cat([cache[1], value_BSK], dim=1)
        scores_BTS = query_BTK @ key_BSK.transpose(1, 2) * query_BTK.shape[-1] ** -0.5
        ahead_TS = torch.ones_like(scores_BTS[0], dtype=torch.bool).triu(start + 1)
        weights_BTS = scores_BTS.masked_fill(ahead_TS, float("-inf")).softmax(dim=-1)
        return self.output(weights_BTS @ value_BSK), (key_BSK, value_BSK)
