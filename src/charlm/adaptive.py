"""Adaptive scoring: the model goes on learning from the characters that it has been scored on.

Each stretch of `every` characters is predicted first, with weights that have seen none of it, and
learned from afterwards by one step of plain gradient descent on its mean loss:

    weights <- weights - learning_rate * gradient, the norm of the gradient at most `clip`

So no prediction rests on its own target or on one behind it, and what a compressor may do is what
is done here. Such a figure stands beside other adaptive ones, never beside a static loss. The
holdout is one stream: what is scored on test has learned from validation.

Source: Mikolov et al., "Recurrent neural network based language model", 2010; Krause et al.,
"Dynamic Evaluation of Neural Sequence Models", 2018.

Shapes: N targets, S characters of a stretch, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from charlm.errors import UserError
from charlm.evaluation import Scores, score
from charlm.models.base import LanguageModel, State, detach

if TYPE_CHECKING:
    from charlm.params import Adaptive


def stretches(
    model: LanguageModel, ids: Tensor, how: "Adaptive"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (S x V) and targets (S) of each stretch, and learn from it thereafter.

    Args:
        model: in evaluation mode, on the device of the ids; its weights are changed.
        ids: the character before the first target, then the N targets.
        how: the step and how often it is taken.

    Raises:
        UserError: the model has nothing to learn with, or its loss is no finite number any more.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise UserError("it has no weights that gradients could change: it cannot adapt this way")
    state: State = None
    # cuDNN's recurrent layers have no gradients in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        for first in range(0, len(ids) - 1, how.every):
            inputs_S = ids[first : first + how.every][: len(ids) - 1 - first].long()
            targets_S = ids[first + 1 : first + 1 + how.every].long()
            logits_BSV, state = model(inputs_S[None], state)
            state = detach(state)
            yield logits_BSV[0].detach(), targets_S
            loss = functional.cross_entropy(logits_BSV[0], targets_S)
            if not torch.isfinite(loss):
                raise UserError(
                    f"its loss is {float(loss.detach())} at character {first}: lower "
                    "learning_rate or clip"
                )
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            _descend(weights, gradients, how)


@torch.no_grad()
def _descend(
    weights: list[torch.nn.Parameter], gradients: tuple[Tensor | None, ...], how: "Adaptive"
) -> None:
    """Take one step, in place."""
    used = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in used]))
    rate = how.learning_rate * (how.clip / norm).clamp(max=1.0)
    for weight, gradient in used:
        weight.sub_(rate * gradient)


def adaptive(
    model: LanguageModel,
    ids: Tensor,
    how: "Adaptive",
    advance: Callable[[int], object] = lambda characters: None,
) -> Scores:
    """Score ids[1:], learning on the way; arguments and errors as in `stretches`."""
    scores: list[Scores] = []
    for logits_SV, targets_S in stretches(model, ids, how):
        scores.append(score(logits_SV, targets_S))
        advance(len(targets_S))
    return torch.cat([nats for nats, _ in scores]), torch.cat([right for _, right in scores])
