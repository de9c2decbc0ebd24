"""Two or more trained models as one; a member may be an ensemble itself.

    linear:     p(w | h) = sum over k of weight_k p_k(w | h)
    geometric:  p(w | h) proportional to the product over k of p_k(w | h) ^ weight_k

The weights are fitted once, on validation (charlm.evaluation.ensemble); linear ones sum to one.

Source: Jelinek and Mercer, "Interpolated estimation of Markov source parameters", 1980 (linear);
Hinton, "Products of Experts", 1999 (geometric).

Shapes: K members, N characters, B batch, T time, V vocabulary.
"""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from charlm import models
from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """How probabilities are put together; what each member is built from."""

    mixing: Literal["linear", "geometric"]
    members: list[dict[str, Any]]


class Model(LanguageModel):
    """The state is the tuple of the members' states, so that each sees what it would see alone."""

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.mixing = architecture.mixing
        members = [
            models.build(member["model"], vocabulary_size, member["block"], member["architecture"])
            for member in architecture.members
        ]
        self.members = nn.ModuleList(members)
        lengths = [member.context_length for member in members]
        bounds = [length for length in lengths if length is not None]
        self.context_length = max(bounds) if len(bounds) == len(lengths) else None
        count = len(members)
        self.register_buffer("weights_K", torch.full((count,), 1 / count))

    def recount(self, ids_N: Tensor) -> None:
        """Let every member count a text."""
        for member in self.members:
            cast(LanguageModel, member).recount(ids_N)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Put the members' log-probabilities together."""
        states = [None] * len(self.members) if state is None else state
        answers = [member(ids_BT, s) for member, s in zip(self.members, states, strict=True)]
        log_p_KBTV = torch.stack([logits.log_softmax(dim=-1) for logits, _ in answers])
        weights_K111 = self.get_buffer("weights_K")[:, None, None, None]
        logits_BTV = combine(log_p_KBTV, weights_K111, self.mixing)
        return logits_BTV, tuple(state for _, state in answers)


def combine(log_p: Tensor, weights: Tensor, mixing: str) -> Tensor:
    """Return the logits of an ensemble.

    Args:
        log_p: log-probabilities of every symbol; the members in the first dimension.
        weights: of the members, one each, with as many dimensions.
        mixing: linear or geometric.
    """
    if mixing == "linear":
        return torch.logsumexp(log_p + weights.log(), dim=0)
    return (log_p * weights).sum(dim=0)
