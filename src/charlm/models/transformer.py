"""Transformer: a decoder of which every part is a parameter, so that each can be left out.

    x = E[ids] + P[positions]                            `positions: learned`
    x = x + Attention(Norm(x));  x = x + MLP(Norm(x))    for each layer, `norm_place: before`
    logits = W Norm(x)                                   W is E if `tied`

    attention: softmax        weights are softmax(q . k / sqrt(K)); without `scaled`, softmax(q . k)
    attention: average        every character up to this one weighs the same
    positions: rotary         q and k are turned by an angle that grows with the position
    residual: false           x = Attention(Norm(x)), and so on
    norm: rms                 x / rms(x) * gain, instead of LayerNorm
    norm_place: after         x = Norm(x + Attention(x)), and none before W
    mlp: gelu, squared_relu   W_2 f(W_1 x), 4 D wide
    mlp: swiglu               W_2 (silu(W_1 x) * W_3 x), 8/3 D wide: as many weights

Weights N(0, 0.02), the projections back into the residual stream N(0, 0.02 / sqrt(2 layers));
without residual connections all of them uniform in ±1 / sqrt(inputs), torch's own.

Source: Vaswani et al., "Attention Is All You Need", 2017 (all of it, normalised after); Radford et
al., 2019 (before, first weights); Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019;
Su et al., "RoFormer", 2021 (rotary); So et al., "Primer", 2021 (squared ReLU); Shazeer, "GLU
Variants Improve Transformer", 2020 (SwiGLU); Press and Wolf, 2017 (tied).

Shapes: B batch, T time, V vocabulary, D width, H heads, K width of a head (D / H), S cached time.
"""

import math
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Positive, Probability, Schema
from charlm.models.base import BlockModel

BASE = 10_000.0
"""The slowest pair of features turns by one radian in so many characters."""


class Architecture(Schema):
    """Sizes and parts of the transformer; the block is the training block."""

    layers: Positive
    heads: Positive
    width: Positive
    dropout: Probability
    attention: Literal["softmax", "average"]
    scaled: bool
    positions: Literal["none", "learned", "rotary"]
    residual: bool
    norm: Literal["none", "layer", "rms"]
    norm_place: Literal["before", "after"]
    mlp: Literal["none", "gelu", "squared_relu", "swiglu"]
    tied: bool

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError("with positions: rotary, width / heads must be even")
        return self


class Attention(nn.Module):
    """Masked multi-head self-attention over the cached characters and the new ones."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        learned = 3 if architecture.attention == "softmax" else 1
        self.query_key_value = nn.Linear(width, learned * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Attend from T new characters to S cached ones and to each other, never ahead.

        Args:
            x_BTD: the new characters' vectors.
            start: position of the first of them.
            cache: None, or keys and values of the characters before, both B x H x S x K.
        """
        batch, time, width = x_BTD.shape
        heads = self.architecture.heads
        parts = [
            part.view(batch, time, heads, width // heads).transpose(1, 2)
            for part in self.query_key_value(x_BTD).split(width, dim=2)
        ]
        query_BHTK, key_BHTK, value_BHTK = parts if len(parts) == 3 else parts * 3
        if self.architecture.positions == "rotary":
            query_BHTK, key_BHTK = rotated(query_BHTK, start), rotated(key_BHTK, start)
        if cache is not None:
            key_BHTK = torch.cat([cache[0], key_BHTK], dim=2)
            value_BHTK = torch.cat([cache[1], value_BHTK], dim=2)
        seen_TS = torch.ones(time, start + time, dtype=torch.bool, device=x_BTD.device).tril(start)
        if self.architecture.attention == "average":
            weights_TS = seen_TS / seen_TS.sum(dim=1, keepdim=True)
            out_BHTK = weights_TS.to(value_BHTK.dtype) @ value_BHTK
        else:
            out_BHTK = functional.scaled_dot_product_attention(
                query_BHTK,
                key_BHTK,
                value_BHTK,
                attn_mask=seen_TS if cache is not None else None,
                is_causal=cache is None,
                scale=None if self.architecture.scaled else 1.0,
            )
        out_BTD = self.projection(out_BHTK.transpose(1, 2).reshape(batch, time, width))
        return out_BTD, (key_BHTK, value_BHTK)


class FeedForward(nn.Module):
    """Two matrices with a nonlinearity between them, or three for SwiGLU."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.kind = architecture.mlp
        width = architecture.width
        # Two thirds as wide, because there are three matrices; eights suit the processor.
        hidden = 4 * width if self.kind != "swiglu" else 8 * round(width / 3)
        self.expand = nn.Linear(width, hidden, bias=False)
        if self.kind == "swiglu":
            self.gate = nn.Linear(width, hidden, bias=False)
        self.projection = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream."""
        hidden = self.expand(x_BTD)
        if self.kind == "gelu":
            hidden = functional.gelu(hidden)
        elif self.kind == "squared_relu":
            hidden = functional.relu(hidden).square()
        else:
            hidden = functional.silu(self.gate(x_BTD)) * hidden
        out_BTD: Tensor = self.projection(hidden)
        return out_BTD


class Layer(nn.Module):
    """Attention, then an MLP if there is one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.residual, self.place = architecture.residual, architecture.norm_place
        self.attention = Attention(architecture)
        self.norm1 = norm(architecture)
        self.mlp = FeedForward(architecture) if architecture.mlp != "none" else None
        self.norm2 = norm(architecture) if self.mlp is not None else None
        self.dropout = nn.Dropout(architecture.dropout)

    def forward(self, x_BTD: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Return the new residual stream and the layer's cache."""
        attended_BTD, cache = self.attention(self.before(self.norm1, x_BTD), start, cache)
        x_BTD = self.added(self.norm1, x_BTD, attended_BTD)
        if self.mlp is not None and self.norm2 is not None:
            x_BTD = self.added(self.norm2, x_BTD, self.mlp(self.before(self.norm2, x_BTD)))
        return x_BTD, cache

    def before(self, norm: nn.Module, x_BTD: Tensor) -> Tensor:
        """Return what a part of the layer reads."""
        read_BTD: Tensor = norm(x_BTD) if self.place == "before" else x_BTD
        return read_BTD

    def added(self, norm: nn.Module, x_BTD: Tensor, new_BTD: Tensor) -> Tensor:
        """Return the residual stream after a part of the layer."""
        new_BTD = self.dropout(new_BTD)
        sum_BTD: Tensor = x_BTD + new_BTD if self.residual else new_BTD
        return norm(sum_BTD) if self.place == "after" else sum_BTD


class Model(BlockModel):
    """Decoder-only transformer; the cache is a pair of keys and values for each layer."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__(block)
        width = architecture.width
        self.embedding = nn.Embedding(vocabulary_size, width)
        learned = architecture.positions == "learned"
        self.positions = nn.Embedding(block, width) if learned else None
        self.dropout = nn.Dropout(architecture.dropout)
        self.layers = nn.ModuleList(Layer(architecture) for _ in range(architecture.layers))
        self.norm = norm(architecture) if architecture.norm_place == "before" else nn.Identity()
        self.output = nn.Linear(width, vocabulary_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or not (architecture.residual or "layers." not in name):
                continue
            into_stream = name.endswith("projection.weight")
            std = 0.02 / math.sqrt(2 * architecture.layers) if into_stream else 0.02
            nn.init.normal_(parameter, std=std)
        if architecture.tied:
            self.output.weight = self.embedding.weight

    def extend(self, ids_BT: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Encode the new characters behind the cached ones, layer by layer."""
        x_BTD = self.embedding(ids_BT)
        if self.positions is not None:
            positions_T = torch.arange(start, start + ids_BT.shape[1], device=ids_BT.device)
            x_BTD = x_BTD + self.positions(positions_T)
        x_BTD = self.dropout(x_BTD)
        new_cache = []
        for index, layer in enumerate(self.layers):
            x_BTD, layer_cache = layer(x_BTD, start, None if cache is None else cache[index])
            new_cache.append(layer_cache)
        return self.output(self.norm(x_BTD)), tuple(new_cache)


def norm(architecture: Architecture) -> nn.Module:
    """Return a normalisation of vectors, with a gain for each feature."""
    if architecture.norm == "layer":
        return nn.LayerNorm(architecture.width, bias=False)
    return nn.RMSNorm(architecture.width) if architecture.norm == "rms" else nn.Identity()


def rotated(x_BHTK: Tensor, start: int) -> Tensor:
    """Turn each pair of features by its position times its frequency.

    The product of a query and a key then depends on how far apart they are, not on where.

    Args:
        x_BHTK: queries or keys; features k and k + K / 2 are a pair.
        start: position of the first.
    """
    time, width = x_BHTK.shape[2:]
    pairs_P = torch.arange(width // 2, device=x_BHTK.device, dtype=torch.float32)
    positions_T = torch.arange(start, start + time, device=x_BHTK.device, dtype=torch.float32)
    angles_TP = positions_T[:, None] * BASE ** (-2 * pairs_P / width)
    cos_TP, sin_TP = angles_TP.cos().to(x_BHTK.dtype), angles_TP.sin().to(x_BHTK.dtype)
    first, second = x_BHTK.chunk(2, dim=3)
    turned = first * cos_TP - second * sin_TP, second * cos_TP + first * sin_TP
    return torch.cat(turned, dim=3)
