"""fit(): one visible loop for every model. It knows nothing of files, DVC or MLflow.

Shapes: B batch, T time, N length of a split.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from charlm import batches
from charlm.errors import UserError
from charlm.models.base import LanguageModel, State, detach

if TYPE_CHECKING:
    from charlm.budget import Training

UNBOUNDED_WINDOW = 512
"""Characters in a window of the validation estimate for a model that carries its state."""

CHARACTERS_A_PASS = 8192
"""Characters that the validation estimate scores in one call of the model."""


@dataclass(frozen=True)
class Point:
    """One point of the loss curve, in nats per character.

    Attributes:
        step: optimiser steps taken.
        characters: characters trained on so far, each counted as often as it was seen.
        train_nats: mean over all characters since the point before; at step 0, of the first batch.
        batch_nats: of the last batch alone, as most documents print it; at step 0, of the first.
        validation_nats: estimate on fixed windows of the validation split.
        learning_rate: of the step just taken.
    """

    step: int
    characters: int
    train_nats: float
    batch_nats: float
    validation_nats: float
    learning_rate: float


def learning_rate_at(step: int, steps: int, budget: "Training") -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all.

    Linear warm-up over `warmup` steps; constant until `decay_after` (a share of all steps); then
    along a line or half a cosine to `final_learning_rate`, which step `steps` would have.
    """
    peak, final = budget.learning_rate, budget.final_learning_rate
    if step < budget.warmup:
        return peak * (step + 1) / (budget.warmup + 1)
    start = max(budget.warmup, budget.decay_after * steps)
    if budget.decay == "none" or step < start:
        return peak
    done = (step - start) / (steps - start)
    if budget.decay == "linear":
        return peak + (final - peak) * done
    return final + (peak - final) * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(model: LanguageModel, budget: "Training") -> torch.optim.Optimizer:
    """Return the optimiser; only matrices decay, as in nanoGPT, never biases and gains.

    Its `step` must be called without gradients.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": budget.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if budget.optimizer == "sgd":
        return _uncompiled(torch.optim.SGD)(groups, lr=budget.learning_rate)
    kind = torch.optim.Adam if budget.optimizer == "adam" else torch.optim.AdamW
    return _uncompiled(kind)(
        groups, lr=budget.learning_rate, betas=(budget.betas[0], budget.betas[1]), fused=True
    )


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimiser whose methods do not import torch's compiler.

    The decorators of these three tell the compiler to leave them alone. Nothing here is compiled,
    and the import costs 1.5 s, as much as torch itself.
    """
    bare = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "zero_grad", "step")
    }
    return type(kind.__name__, (kind,), bare)


def fit(
    model: LanguageModel,
    train_N: Tensor,
    validation_N: Tensor,
    budget: "Training",
    seed: int,
    report: Callable[[Point], None] = lambda point: None,
    advance: Callable[[int, float], None] = lambda steps, nats: None,
) -> list[Point]:
    """Train a model in place and return its loss curve.

    Args:
        model: on the device that it is to be trained on; it is left in evaluation mode.
        train_N: ids of the training split, on the same device.
        validation_N: ids of the validation split, on the same device.
        budget: how to train, and for how many steps.
        seed: of the batches and of dropout.
        report: called with each point of the curve as soon as it is known.
        advance: called now and then with the steps taken since the last call and the mean
            training loss over them, for a progress display. This mean is also what `stop_below`
            looks at.

    Raises:
        UserError: the loss is not a finite number; nothing is returned then.
    """
    steps = budget.steps_on(len(train_N))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = make_optimizer(model, budget)
    stream = batches.KINDS[budget.batches](train_N, budget.batch, budget.block, generator)
    carry = budget.batches == "streams"
    show_every = max(1, min(100, budget.validate_every // 10))
    curve: list[Point] = []
    state: State = None
    losses: list[Tensor] = []
    nats, characters, steps_since = 0.0, 0, 0

    def add_point(step: int, mean_nats: float, batch_nats: float, rate: float) -> None:
        point = Point(
            step,
            characters,
            mean_nats,
            batch_nats,
            estimate(model, validation_N, budget.block, budget.validation_characters),
            rate,
        )
        curve.append(point)
        report(point)

    model.train()
    for step in range(steps):
        rate = learning_rate_at(step, steps, budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs_BT, targets_BT, fresh = next(stream)
        logits_BTV, state = model(inputs_BT, state if carry and not fresh else None)
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        if step == 0:
            add_point(0, float(loss.detach()), float(loss.detach()), rate)
        state = detach(state) if carry else None
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if budget.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
        with torch.no_grad():
            optimizer.step()
        # Losses stay on their device until they are shown, so that a GPU never waits for Python.
        losses.append(loss.detach())
        steps_since += 1
        characters += targets_BT.numel()
        last = step + 1 == steps
        validates = last or (step + 1) % budget.validate_every == 0
        if len(losses) == show_every or validates:
            total = float(torch.stack(losses).cpu().double().sum())
            mean = total / len(losses)
            if not math.isfinite(mean):
                raise UserError(
                    f"the training loss is {mean} at step {step + 1} (learning rate {rate:.3g}): "
                    "nothing was saved; lower learning_rate or clip"
                )
            advance(len(losses), mean)
            last = last or (budget.stop_below is not None and mean < budget.stop_below)
            nats += total
            losses.clear()
        if validates or last:
            add_point(step + 1, nats / steps_since, float(loss.detach()), rate)
            nats, steps_since = 0.0, 0
        if last:
            break
    model.eval()
    return curve


@torch.no_grad()
def estimate(model: LanguageModel, ids_N: Tensor, block: int, characters: int) -> float:
    """Return nats per character on windows spread evenly over a split, the same ones every time.

    An estimate to watch a run by, never a result: charlm.evaluation scores every target.

    Args:
        model: a model without bounds on its context gets longer windows, because it is at home in
            long streams.
        ids_N: the split, on the model's device.
        block: the training block.
        characters: about how many to score.
    """
    was_training = model.training
    model.eval()
    targets = len(ids_N) - 1
    length = min(block if model.context_length else max(block, UNBOUNDED_WINDOW), targets)
    count = max(1, min(characters, targets) // length)
    starts_W = torch.linspace(0, targets - length, count, device=ids_N.device).long()
    offsets_T = torch.arange(length + 1, device=ids_N.device)
    total, count = 0.0, 0
    for some_W in starts_W.split(max(1, CHARACTERS_A_PASS // length)):
        taken = ids_N[some_W[:, None] + offsets_T].long()
        inputs_BT, targets_BT = taken[:, :-1], taken[:, 1:]
        logits_BTV, _ = model(inputs_BT)
        total += float(
            functional.cross_entropy(
                logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum"
            )
        )
        count += targets_BT.numel()
    model.train(was_training)
    return total / count
