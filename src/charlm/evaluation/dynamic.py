"""Dynamic evaluation: the model goes on learning from the characters that it has been scored on.

The text is scored in pieces of `every` characters. Each piece is predicted first, with weights that
have seen none of it; then one step of gradient descent is taken on its mean loss. The step of each
weight is scaled by the root mean square of its gradients on the training text: weights that matter
little move little. All weights are drawn back to where training left them:

    weights <- weights - learning_rate * gradient / (rms + epsilon)
    weights <- weights + decay * rms / mean(rms) * (trained weights - weights)

Models that count are counted again, on the training text and all that was scored, every `recount`
characters. With a `context_rate` what the model says is mixed with what followed earlier in the
same contexts (charlm.evaluation.context_mixing). Then the weights of the model and of the mixing
take one step on the same loss, that of the mixed prediction.

No prediction rests on its own target or on a later one: a compressor may do the same. A dynamic
loss is compared with other dynamic losses, never with a static one. The holdout is one stream: the
model that scores test has learned from validation.

Source: Mikolov et al., "Recurrent neural network based language model", 2010; Krause et al.,
"Dynamic Evaluation of Neural Sequence Models", 2018 (the scaled step and the decay).

Shapes: N targets, M characters before them, S characters of a piece, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from charlm.errors import UserError
from charlm.evaluation.context_mixing import ContextMixing
from charlm.evaluation.loss import Scores, score
from charlm.models.base import LanguageModel, State, detach

if TYPE_CHECKING:
    from charlm.config.params import Dynamic


@dataclass(frozen=True)
class Weight:
    """A weight that learns, and how far each of its numbers moves in a step.

    Attributes:
        now: what it is.
        trained: what it was when training ended.
        rate: by which its gradient is multiplied.
        pull: share of the way back to `trained`.
    """

    now: Tensor
    trained: Tensor
    rate: Tensor
    pull: Tensor


class Learner:
    """Teaches a model each piece, once it is scored.

    Args:
        model: in evaluation mode, on the device of the ids; its weights are changed.
        past_M: the text that the model was trained on.
        how: the step.
        symbols: of the vocabulary.

    Raises:
        UserError: the model has nothing to learn with, or the past is too short to say how large
            gradients are.
    """

    def __init__(self, model: LanguageModel, past_M: Tensor, how: "Dynamic", symbols: str) -> None:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not weights:
            raise UserError("it has no weights that gradients could change: no dynamic evaluation")
        self._model, self._how = model, how
        first = max(0, len(past_M) - how.statistics - 1)
        if first:
            # Counts overfit the text that they are of, and would make its gradients too small.
            model.recount(past_M[:first])
        scales = root_mean_squares(model, weights, past_M[first:], how.every)
        model.recount(past_M)
        mean = torch.cat([scale.flatten() for scale in scales]).mean()
        # On a text of one symbol there is nothing to learn: no gradients, and nothing to divide by.
        mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)
        self._weights = [
            Weight(
                weight,
                weight.detach().clone(),
                how.learning_rate / (scale + how.epsilon),
                (how.decay * scale / mean).clamp(max=1.0),
            )
            for weight, scale in zip(weights, scales, strict=True)
        ]
        rate = how.context_rate
        self._mixing = ContextMixing(symbols, past_M, rate) if rate else None

    def recount_is_due(self, scored: int) -> bool:
        """Return whether it is time to count again; `scored` is a multiple of `every`."""
        return scored > 0 and scored % self._how.recount < self._how.every

    def recount(self, text: Tensor) -> None:
        """Count again all that is known."""
        self._model.recount(text)

    def read(self, ids: list[int]) -> None:
        """Take note of the next inputs, from the last character of the past on."""
        if self._mixing:
            self._mixing.read(ids)

    def predict(self, logits_SV: Tensor) -> Tensor:
        """Return the logits that count, with context mixing those of the mixture.

        Args:
            logits_SV: of the model, after each of the last S inputs that were read.
        """
        return self._mixing.mix(logits_SV) if self._mixing else logits_SV

    def step(self, logits_SV: Tensor, targets_S: Tensor) -> None:
        """Take one step on a piece.

        Args:
            logits_SV: what `predict` returned, with the graph that made it.
            targets_S: what came.

        Raises:
            UserError: the loss is no finite number any more.
        """
        loss = functional.cross_entropy(logits_SV, targets_S)
        if not torch.isfinite(loss):
            raise UserError(
                f"its loss is {float(loss.detach())}: lower learning_rate, or context_rate"
            )
        mixing = self._mixing.weights if self._mixing else []
        learning = [weight.now for weight in self._weights]
        gradients = torch.autograd.grad(loss, [*learning, *mixing], allow_unused=True)
        if self._mixing:
            of_mixing = gradients[len(learning) :]
            self._mixing.step([gradient * len(targets_S) for gradient in of_mixing])
        with torch.no_grad():
            for weight, gradient in zip(self._weights, gradients, strict=False):
                if gradient is not None:
                    weight.now.addcmul_(gradient, weight.rate, value=-1.0)
                    weight.now.lerp_(weight.trained, weight.pull)


def pieces(
    model: LanguageModel, past_M: Tensor, targets_N: Tensor, how: "Dynamic", symbols: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (S x V) and targets (S) of each piece, and learn from it thereafter.

    Args:
        model: in evaluation mode, on the device of the ids; its weights are changed.
        past_M: the text that the model was trained on; its last character is the first input.
        targets_N: what is to be scored.
        how: the step, and how often it is taken.
        symbols: of the vocabulary.

    Raises:
        UserError: as a `Learner` does.
    """
    # cuDNN's recurrent layers have no gradients in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        learner = Learner(model, past_M, how, symbols)
        text = torch.cat([past_M, targets_N])
        state: State = None
        for start in range(0, len(targets_N), how.every):
            first = len(past_M) + start
            if learner.recount_is_due(start):
                learner.recount(text[:first])
            targets_S = text[first : first + how.every].long()
            inputs_S = text[first - 1 : first - 1 + len(targets_S)].long()
            logits_BSV, state = model(inputs_S[None], state)
            state = detach(state)
            learner.read(inputs_S.tolist())
            logits_SV = learner.predict(logits_BSV[0])
            yield logits_SV.detach(), targets_S
            learner.step(logits_SV, targets_S)


def root_mean_squares(
    model: LanguageModel, weights: list[torch.nn.Parameter], ids: Tensor, every: int
) -> list[Tensor]:
    """Return, for each weight, how large its gradient is on pieces of a text, on average.

    Args:
        model: in evaluation mode.
        weights: of the model.
        ids: a text that it was trained on, in order, the state being carried through it.
        every: characters of a piece; what is left of the text is not used.

    Raises:
        UserError: there is not one piece.
    """
    count = (len(ids) - 1) // every
    if count < 1:
        raise UserError(f"statistics of gradients need more than {every} characters of training")
    sums = [torch.zeros_like(weight) for weight in weights]
    state: State = None
    for first in range(0, count * every, every):
        piece = ids[first : first + every + 1].long()
        logits_BSV, state = model(piece[None, :-1], state)
        state = detach(state)
        loss = functional.cross_entropy(logits_BSV[0], piece[1:])
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
    return [(total / count).sqrt_() for total in sums]


def scores(
    model: LanguageModel,
    past_M: Tensor,
    targets_N: Tensor,
    how: "Dynamic",
    symbols: str,
    advance: Callable[[int], object] = lambda characters: None,
) -> Scores:
    """Return the scores of a text, learning on the way; arguments and errors as in `pieces`."""
    parts: list[Scores] = []
    for logits_SV, targets_S in pieces(model, past_M, targets_N, how, symbols):
        parts.append(score(logits_SV, targets_S))
        advance(len(targets_S))
    return torch.cat([nats for nats, _ in parts]), torch.cat([right for _, right in parts])
