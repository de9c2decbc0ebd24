"""Any model of the zoo, small."""

from typing import Any

import torch

from charlm import models
from charlm.config import params
from charlm.models.base import CountingModel, LanguageModel, ResidualModel
from tests.workspace import at_scale

SMOKE = at_scale("smoke")


def build(name: str, vocabulary: int, block: int | None = None) -> tuple[LanguageModel, int]:
    """Return a model of the zoo with fresh weights or the counts of a random text, and its block.

    It comes from torch's global random state, has the sizes of scale smoke, and is in evaluation
    mode.
    """
    entry = SMOKE.entry(name)
    block = block or block_of(entry)
    model = models.build(entry.model, vocabulary, block, architecture_of(entry)).eval()
    for part in model.modules():
        if isinstance(part, CountingModel):
            part.fit(torch.randint(vocabulary, (300,)))
    return model, block


def expected(model: LanguageModel, ids_N: torch.Tensor) -> torch.Tensor | None:
    """Return what the training of a residual model on a text needs; nothing for others."""
    return model.study(ids_N) if isinstance(model, ResidualModel) else None


def block_of(entry: params.Entry) -> int:
    """Return the characters of an entry's window."""
    if isinstance(entry, params.Trained):
        return entry.training.block
    assert isinstance(entry, params.Counting | params.Mixed)
    return entry.block


def architecture_of(entry: params.Entry) -> dict[str, Any]:
    """Return what a model is built from; of a mixture, what its members are built from too."""
    if not isinstance(entry, params.Mixed):
        return entry.architecture
    members = [SMOKE.entry(member) for member in entry.members]
    return {
        "mixing": "linear" if entry.mixing == "best" else entry.mixing,
        "members": [
            {"model": of.model, "block": block_of(of), "architecture": architecture_of(of)}
            for of in members
        ],
    }
