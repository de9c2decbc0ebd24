"""Any model of the zoo, small."""

import torch

from charlm import models, params
from charlm.models.base import CountingModel, LanguageModel
from tests.workspace import at_scale

SMOKE = at_scale("smoke")


def build(name: str, vocabulary: int, block: int | None = None) -> tuple[LanguageModel, int]:
    """Return a model of the zoo with fresh weights or the counts of a random text, and its block.

    It comes from torch's global random state, has the sizes of scale smoke, and is in evaluation
    mode.
    """
    entry = SMOKE.entry(name)
    if block is None:
        block = entry.training.block if isinstance(entry, params.Trained) else entry.block
    model = models.build(entry.model, vocabulary, block, entry.architecture).eval()
    if isinstance(model, CountingModel):
        model.fit(torch.randint(vocabulary, (300,)))
    return model, block
