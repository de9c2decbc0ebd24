"""GPT: nanoGPT's architecture, a pre-norm transformer decoder with learned absolute positions.

    x = E[ids] + P[positions]
    x = x + Attention(LayerNorm(x));  x = x + MLP(LayerNorm(x))        for each layer
    logits = LayerNorm(x) E^T                                          (tied with the embedding)

Weights N(0, 0.02), the projections back into the residual stream N(0, 0.02 / sqrt(2 layers)).

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, as written in
karpathy/nanoGPT, whose CPU and GPU recipes for tiny Shakespeare are scale quick and scale full.

Shapes: B batch, T time, V vocabulary, D width, H heads, K width of a head (D / H), S cached time.
"""

import math
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import BlockModel


class Architecture(Schema):
    """Sizes of the GPT; the block (its table of positions) is the training block."""

    layers: Positive
    heads: Positive
    width: Positive
    dropout: Probability
    bias: bool

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class Attention(nn.Module):
    """Masked multi-head self-attention over the cached characters and the new ones."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.heads = architecture.heads
        self.dropout = architecture.dropout
        self.query_key_value = nn.Linear(width, 3 * width, bias=architecture.bias)
        self.projection = nn.Linear(width, width, bias=architecture.bias)

    def forward(self, x_BTD: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Attend from T new characters to S cached ones and to each other, never ahead.

        Args:
            x_BTD: the new characters' vectors.
            cache: None, or keys and values of the characters before, both B x H x S x K.
        """
        batch, time, width = x_BTD.shape
        query_BHTK, key_BHTK, value_BHTK = (
            part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(x_BTD).split(width, dim=2)
        )
        mask = None
        if cache is not None:
            key_BHTK = torch.cat([cache[0], key_BHTK], dim=2)
            value_BHTK = torch.cat([cache[1], value_BHTK], dim=2)
            if time > 1:
                seen = key_BHTK.shape[2]
                mask = torch.ones(time, seen, dtype=torch.bool, device=x_BTD.device)
                mask = mask.tril(seen - time)
        out_BHTK = functional.scaled_dot_product_attention(
            query_BHTK,
            key_BHTK,
            value_BHTK,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=cache is None,
        )
        out_BTD = self.projection(out_BHTK.transpose(1, 2).reshape(batch, time, width))
        out_BTD = functional.dropout(out_BTD, self.dropout, self.training)
        return out_BTD, (key_BHTK, value_BHTK)


class Layer(nn.Module):
    """Attention and a four times wider GELU network, each on a normalised residual stream."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, bias = architecture.width, architecture.bias
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(architecture)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.projection = nn.Linear(4 * width, width, bias=bias)
        self.dropout = nn.Dropout(architecture.dropout)

    def forward(self, x_BTD: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return the new residual stream and the layer's cache."""
        attended_BTD, cache = self.attention(self.norm1(x_BTD), cache)
        x_BTD = x_BTD + attended_BTD
        hidden = functional.gelu(self.expand(self.norm2(x_BTD)))
        return x_BTD + self.dropout(self.projection(hidden)), cache


class Model(BlockModel):
    """Decoder-only transformer; the cache is a pair of keys and values for each layer."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__(block)
        self.embedding = nn.Embedding(vocabulary_size, architecture.width)
        self.positions = nn.Embedding(block, architecture.width)
        self.dropout = nn.Dropout(architecture.dropout)
        self.layers = nn.ModuleList(Layer(architecture) for _ in range(architecture.layers))
        self.norm = nn.LayerNorm(architecture.width, bias=architecture.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("projection.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * architecture.layers))
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def extend(self, ids_BT: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Encode the new characters behind the cached ones, layer by layer."""
        positions_T = torch.arange(start, start + ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.dropout(self.embedding(ids_BT) + self.positions(positions_T))
        new_cache = []
        for index, layer in enumerate(self.layers):
            x_BTD, layer_cache = layer(x_BTD, None if cache is None else cache[index])
            new_cache.append(layer_cache)
        return functional.linear(self.norm(x_BTD), self.embedding.weight), tuple(new_cache)
