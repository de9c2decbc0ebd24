"""Whether a training fits: refused with the numbers before it begins, instead of killed within."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
import torch

from charlm.errors import UserError
from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.config.training import Training
    from charlm.saved_model import Config

COPIES = {"sgd": 1, "adam": 3, "adamw": 3, "muon": 3}
"""Numbers per weight beside the weight itself: its gradient, and what the optimiser remembers.

With muon, matrices have two and the rest three."""

FLOAT_BYTES, HALF_BYTES = 4, 2

SMALL = 1 << 30
"""Bytes up to which a model is built without being counted first."""

NO_MEMORY = "can't allocate memory"
"""What torch says, by an error that means other things too."""


def build(name: str, config: "Config") -> LanguageModel:
    """Return a model with fresh weights, on the CPU, if there is memory for them.

    Linux promises memory that it does not have, and kills who comes for it: each part of a model
    may fit where all of them do not. Weights of many gigabytes are therefore counted first, by
    building the model without memory; for the others that would take longer than all else.

    Args:
        name: of the run.
        config: what it is built from.

    Raises:
        UserError: it does not fit; the message has the numbers.
    """
    available = psutil.virtual_memory().available
    state = torch.get_rng_state()
    try:
        with _bounded(psutil.Process().memory_info().vms + min(available, SMALL)):
            return config.build()
    except RuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
    with torch.device("meta"):
        parameters = config.build().parameter_count
    if FLOAT_BYTES * parameters > available:
        raise UserError(
            f"{name} needs {FLOAT_BYTES * parameters:,} bytes for {parameters:,} parameters, but "
            f"{available:,} are available: choose smaller sizes"
        )
    torch.set_rng_state(state)
    return config.build()


@contextlib.contextmanager
def _bounded(size: int) -> Iterator[None]:
    """Bound this process's address space, where the system can."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows promises only what it has
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    if before[0] != resource.RLIM_INFINITY:
        size = min(size, before[0])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, before)


def check(name: str, model: LanguageModel, plan: "Training", characters: int, symbols: int) -> None:
    """Refuse a training that needs more memory than there is, by what it needs at least.

    That is gradients, optimiser, a step's logits with their gradients, and the features of the
    whole text; what layers keep for the backward pass comes on top.

    Args:
        name: of the run.
        model: on the device that it is to be trained on.
        plan: the training configuration.
        characters: of the text.
        symbols: of the vocabulary.

    Raises:
        UserError: it does not fit; the message has the numbers.
    """
    if not plan.steps_on(characters):
        return
    device = next(model.parameters()).device
    available = psutil.virtual_memory().available
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    predicted = plan.characters_per_step(characters)
    of_weights = FLOAT_BYTES * COPIES[plan.optimizer] * model.parameter_count
    of_logits = FLOAT_BYTES * 2 * predicted * symbols
    of_features = HALF_BYTES * characters * model.features * symbols
    if of_weights + of_logits + of_features > available:
        features = f", {of_features:,} for features of the text" if of_features else ""
        raise UserError(
            f"{name} needs at least {of_weights:,} bytes for {model.parameter_count:,} parameters "
            f"and {of_logits:,} for {predicted:,} characters per step of {symbols:,} symbols"
            f"{features}, but {available:,} are available: "
            "choose smaller sizes, or a smaller batch or block"
        )
