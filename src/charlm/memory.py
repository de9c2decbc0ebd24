"""Whether a training fits: refused with the numbers before it begins, instead of killed within."""

from typing import TYPE_CHECKING

import psutil
import torch

from charlm.errors import UserError
from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.budget import Training

COPIES = {"sgd": 1, "adam": 3, "adamw": 3}
"""Of the weights, beside them: gradients, and what an optimiser remembers."""

FLOAT_BYTES = 4


def check(
    name: str, model: LanguageModel, budget: "Training", characters: int, symbols: int
) -> None:
    """Refuse a training that needs more memory than there is, by what it needs at least.

    That is gradients, optimiser, and a step's logits with their gradients; what layers keep for
    the way back comes on top.

    Args:
        name: of the entry.
        model: on the device that it is to be trained on.
        budget: how it is to be trained.
        characters: of the text.
        symbols: of the vocabulary.

    Raises:
        UserError: it does not fit; the message has the numbers.
    """
    device = next(model.parameters()).device
    available = psutil.virtual_memory().available
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    predicted = budget.characters_a_step(characters)
    of_weights = FLOAT_BYTES * COPIES[budget.optimizer] * model.parameter_count
    of_logits = FLOAT_BYTES * 2 * predicted * symbols
    if of_weights + of_logits > available:
        raise UserError(
            f"{name} needs at least {of_weights:,} bytes for {model.parameter_count:,} parameters "
            f"and {of_logits:,} for {predicted:,} characters a step of {symbols:,} symbols, but "
            f"{available:,} are available: choose smaller sizes, or a smaller batch or block"
        )
