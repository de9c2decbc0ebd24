"""Adaptive scoring: the model goes on learning from the characters that it has been scored on.

Each stretch of `every` characters is predicted first, with weights that have seen none of it, and
learned from afterwards by one step of gradient descent on its mean loss. The step of each weight is
scaled by the root mean square of its gradients on the training text, so that weights which matter
little move little, and all of them are drawn back to where training left them:

    weights <- weights - learning_rate * gradient / (rms + epsilon)
    weights <- weights + decay * rms / mean(rms) * (trained weights - weights)

Models that count inside are fitted again, on the training text and all that was scored, every
`recount` characters.

So no prediction rests on its own target or on one behind it, and what a compressor may do is what
is done here. Such a figure stands beside other adaptive ones, never beside a static loss. The
holdout is one stream: what is scored on test has learned from validation.

Source: Mikolov et al., "Recurrent neural network based language model", 2010; Krause et al.,
"Dynamic Evaluation of Neural Sequence Models", 2018 (the scaled step and the decay).

Shapes: N targets, M characters before them, S characters of a stretch, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from charlm.errors import UserError
from charlm.evaluation.loss import Scores, score
from charlm.models.base import CountingModel, LanguageModel, State, detach

if TYPE_CHECKING:
    from charlm.config.params import Adaptive


class Learner:
    """What a model learns from each stretch, once it is known.

    Args:
        model: in evaluation mode, on the device of the ids; its weights are changed.
        past_M: the text that the model was trained on.
        how: the step.

    Raises:
        UserError: the model has nothing to learn with, or the past is too short to say how large
            gradients are.
    """

    def __init__(self, model: LanguageModel, past_M: Tensor, how: "Adaptive") -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not self._weights:
            raise UserError("it has no weights that gradients could change: it cannot adapt so")
        self._how = how
        self._counts = [part for part in model.modules() if isinstance(part, CountingModel)]
        self._trained = [weight.detach().clone() for weight in self._weights]
        first = max(0, len(past_M) - how.statistics - 1)
        if first:
            # Counts would know this part by heart, and leave nothing to learn from it.
            self._count(past_M[:first])
        self._scales = root_mean_squares(model, self._weights, past_M[first:], how.every)
        self._count(past_M)
        mean = torch.cat([scale.flatten() for scale in self._scales]).mean()
        self._pulls = [(how.decay * scale / mean).clamp(max=1.0) for scale in self._scales]

    def count(self, text: Tensor, scored: int) -> None:
        """Fit models that count again, if it is time.

        Args:
            text: all that is known, of which the last `scored` characters were scored.
            scored: a multiple of `every`.
        """
        if scored and scored % self._how.recount < self._how.every:
            self._count(text)

    def _count(self, text: Tensor) -> None:
        for part in self._counts:
            part.fit(text)

    def step(self, logits_SV: Tensor, targets_S: Tensor) -> None:
        """Take one step on a stretch.

        Args:
            logits_SV: what the model said, with the graph that made it.
            targets_S: what came.

        Raises:
            UserError: the loss is no finite number any more.
        """
        loss = functional.cross_entropy(logits_SV, targets_S)
        if not torch.isfinite(loss):
            raise UserError(f"its loss is {float(loss.detach())}: lower learning_rate")
        gradients = torch.autograd.grad(loss, self._weights, allow_unused=True)
        with torch.no_grad():
            for weight, gradient, scale, pull, home in zip(
                self._weights, gradients, self._scales, self._pulls, self._trained, strict=True
            ):
                if gradient is not None:
                    weight.sub_(self._how.learning_rate * gradient / (scale + self._how.epsilon))
                    weight.add_(pull * (home - weight))


def stretches(
    model: LanguageModel, past_M: Tensor, targets_N: Tensor, how: "Adaptive"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (S x V) and targets (S) of each stretch, and learn from it thereafter.

    Args:
        model: in evaluation mode, on the device of the ids; its weights are changed.
        past_M: the text that the model was trained on; its last character is the first input.
        targets_N: what is to be scored.
        how: the step and how often it is taken.

    Raises:
        UserError: as a `Learner` does.
    """
    # cuDNN's recurrent layers have no gradients in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        learner = Learner(model, past_M, how)
        text = torch.cat([past_M, targets_N])
        state: State = None
        for start in range(0, len(targets_N), how.every):
            first = len(past_M) + start
            learner.count(text[:first], start)
            targets_S = text[first : first + how.every].long()
            inputs_S = text[first - 1 : first - 1 + len(targets_S)].long()
            logits_BSV, state = model(inputs_S[None], state)
            state = detach(state)
            yield logits_BSV[0].detach(), targets_S
            learner.step(logits_BSV[0], targets_S)


def root_mean_squares(
    model: LanguageModel, weights: list[torch.nn.Parameter], ids: Tensor, every: int
) -> list[Tensor]:
    """Return, for each weight, how large its gradient is on stretches of a text, on average.

    Args:
        model: in evaluation mode.
        weights: of the model.
        ids: a text that it was trained on, in order, the state being carried through it.
        every: characters of a stretch; what is left of the text is not used.

    Raises:
        UserError: there is not one stretch.
    """
    count = (len(ids) - 1) // every
    if count < 1:
        raise UserError(f"statistics of gradients need more than {every} characters of training")
    sums = [torch.zeros_like(weight) for weight in weights]
    state: State = None
    for first in range(0, count * every, every):
        stretch = ids[first : first + every + 1].long()
        logits_BSV, state = model(stretch[None, :-1], state)
        state = detach(state)
        loss = functional.cross_entropy(logits_BSV[0], stretch[1:])
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
    return [(total / count).sqrt_() for total in sums]


def adaptive(
    model: LanguageModel,
    past_M: Tensor,
    targets_N: Tensor,
    how: "Adaptive",
    advance: Callable[[int], object] = lambda characters: None,
) -> Scores:
    """Score a text, learning on the way; arguments and errors as in `stretches`."""
    scores: list[Scores] = []
    for logits_SV, targets_S in stretches(model, past_M, targets_N, how):
        scores.append(score(logits_SV, targets_S))
        advance(len(targets_S))
    return torch.cat([nats for nats, _ in scores]), torch.cat([right for _, right in scores])
