"""fit(): one visible loop for every model. It knows nothing of files, DVC or MLflow.

Shapes: B batch, T time, N length of a split.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from charlm import batches
from charlm.errors import UserError
from charlm.keeping import Keeper, Snapshot
from charlm.models.base import LanguageModel, State, detach
from charlm.parallel import ALONE, Ranks

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


@dataclass
class _Progress:
    """Where a training stands: what its loop counts, and the curve so far."""

    step: int = 0
    characters: int = 0
    nats: float = 0.0
    steps_since: int = 0
    curve: list[Point] = field(default_factory=list)


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a model predicts: products of matrices in a precision.

    Weights, their gradients and the optimiser stay in float32. A device that does not compute in
    bfloat16 itself computes in float32.

    Args:
        precision: float32 or bfloat16.
        device: that the model is on.
    """
    if device.type == "cpu":
        able = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" and able:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def fit(
    model: LanguageModel,
    train_N: Tensor,
    validation_N: Tensor,
    budget: "Training",
    seed: int,
    report: Callable[[Point], None] = lambda point: None,
    advance: Callable[[int, float], None] = lambda steps, nats: None,
    snapshot: Snapshot | None = None,
    keeper: Keeper | None = None,
    ranks: Ranks = ALONE,
) -> list[Point]:
    """Train a model in place and return its loss curve.

    Args:
        model: on the device that it is to be trained on; it is left in evaluation mode.
        train_N: ids of the training split, on the same device.
        validation_N: ids of the validation split, on the same device.
        budget: how to train, and for how many steps.
        seed: of the batches and of dropout.
        report: called with each point of the curve as soon as it is known; with those of before, if
            the training goes on from a snapshot.
        advance: called now and then with the steps taken since the last call and the mean
            training loss over them, for a progress display. This mean is also what `stop_below`
            looks at.
        snapshot: where to go on from; what is then trained has the same bytes as without it.
        keeper: takes snapshots.
        ranks: which part of each batch is this process's.

    Raises:
        UserError: the loss is not a finite number; the last snapshot is as it was.
        Interrupted: a signal asked for an end; a snapshot was taken.
    """
    steps = budget.steps_on(len(train_N))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + ranks.rank)
    optimizer = make_optimizer(model, budget)
    stream = batches.KINDS[budget.batches](train_N, budget.batch, budget.block, generator)
    carry = budget.batches == "streams"
    show_every = max(1, min(100, budget.validate_every // 10))
    state: State = None
    losses: list[Tensor] = []
    done = _Progress()
    if snapshot is not None:
        state = _restore(snapshot, model, optimizer, done)
        # Batches depend on the generator alone, so that drawing them again leads to the same place.
        for _ in range(done.step):
            next(stream)
        for point in done.curve:
            report(point)
        advance(done.step, done.curve[-1].train_nats)

    def add_point(step: int, mean_nats: float, batch_nats: float, rate: float) -> None:
        point = Point(
            step,
            done.characters,
            mean_nats,
            batch_nats,
            estimate(model, validation_N, budget.block, budget.validation_characters),
            rate,
        )
        done.curve.append(point)
        report(point)

    def stop_if_not_finite(nats: float, rate: float) -> None:
        if not math.isfinite(nats):
            raise UserError(
                f"the training loss is {nats} at step {done.step} (learning rate {rate:.3g}): "
                "nothing was saved; lower learning_rate or clip"
            )

    model.train()
    predict = ranks.wrap(model)
    weights = next(model.parameters())
    precision = arithmetic(budget.precision, weights.device)
    for step in range(done.step, steps):
        rate = learning_rate_at(step, steps, budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(stream)
        (inputs_BT, targets_BT, fresh), weight = ranks.share(batch)
        with precision:
            logits_BTV, state = predict(inputs_BT, state if carry and not fresh else None)
        logits_NV = logits_BTV.flatten(0, 1).to(weights.dtype)
        loss = weight * functional.cross_entropy(logits_NV, targets_BT.flatten())
        if step == 0:
            first = ranks.mean(float(loss.detach()))
            add_point(0, first, first, rate)
        state = detach(state) if carry else None
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if budget.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
        with torch.no_grad():
            optimizer.step()
        # Losses stay on their device until they are shown, so that a GPU never waits for Python.
        losses.append(loss.detach())
        done.step += 1
        done.steps_since += 1
        done.characters += batch.targets_BT.numel()
        last = done.step == steps
        validates = last or done.step % budget.validate_every == 0
        if len(losses) < show_every and not validates:
            continue
        total = ranks.mean(float(torch.stack(losses).cpu().double().sum()))
        mean = total / len(losses)
        stop_if_not_finite(mean, rate)
        advance(len(losses), mean)
        last = last or (budget.stop_below is not None and mean < budget.stop_below)
        done.nats += total
        losses.clear()
        if validates or last:
            mean_nats = done.nats / done.steps_since
            add_point(done.step, mean_nats, ranks.mean(float(loss.detach())), rate)
            done.nats, done.steps_since = 0.0, 0
        if last:
            break
        if keeper is not None and ranks.any(keeper.due):
            for parameter in model.parameters():
                stop_if_not_finite(float(parameter.detach().sum()), rate)
            keeper.save(_snapshot(model, optimizer, state, done))
    model.eval()
    return done.curve


def _snapshot(
    model: LanguageModel, optimizer: torch.optim.Optimizer, state: State, done: _Progress
) -> Snapshot:
    """Return all that the loop needs to go on, between two steps."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for place, parameter in enumerate(model.parameters()):
        # SGD without momentum remembers nothing.
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{place}.{name}"] = value
    parts: list[Tensor] = []
    content = {**asdict(done), "state": _shape(state, parts)}
    tensors |= {f"state.{place}": tensor for place, tensor in enumerate(parts)}
    tensors["random.cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    return Snapshot(tensors, content)


def _restore(
    snapshot: Snapshot, model: LanguageModel, optimizer: torch.optim.Optimizer, done: _Progress
) -> State:
    """Put everything back as it was, and return the carried state."""
    content, tensors = snapshot.content, snapshot.tensors
    device = next(model.parameters()).device
    model.load_state_dict(
        {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    )
    parameters = list(model.parameters())
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".")
            optimizer.state[parameters[int(place)]][key] = tensor.to(device)
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    done.step, done.characters = content["step"], content["characters"]
    done.nats, done.steps_since = content["nats"], content["steps_since"]
    done.curve[:] = [Point(**point) for point in content["curve"]]
    parts = (tensors[f"state.{place}"].to(device) for place in itertools.count())
    return _filled(content["state"], parts)


def _shape(state: State, parts: list[Tensor]) -> Any:
    """Return a state's form as JSON can say it; its tensors go to `parts`, in order."""
    if isinstance(state, Tensor):
        parts.append(state)
        return "tensor"
    return [_shape(part, parts) for part in state] if isinstance(state, tuple) else state


def _filled(shape: Any, parts: Iterator[Tensor]) -> State:
    """Return the state of a form, with its tensors taken from `parts`."""
    if shape == "tensor":
        return next(parts)
    return tuple(_filled(part, parts) for part in shape) if isinstance(shape, list) else shape


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
