"""fit(): one visible loop for every model. It knows nothing of files, DVC or MLflow.

Shapes: B batch, T time, N length of a split.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from charlm.data import batches
from charlm.errors import UserError
from charlm.models.base import LanguageModel, State, detach
from charlm.training import cuda_graphs
from charlm.training.checkpoint import Keeper, Snapshot
from charlm.training.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from charlm.config.training import Training

UNBOUNDED_WINDOW = 512
"""Characters in a window of the validation estimate for a model that carries its state."""

CHARACTERS_A_PASS = 8192
"""Characters that the validation estimate scores in one call of the model."""

STEPS_A_REPLAY = 10
"""Training steps in one CUDA graph, at most: beyond that Python's share is small."""


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

    Its `step` must be called without gradients. On a CUDA device its learning rate is a tensor
    there, so that a graph can read it.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": budget.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device, rate = parameters[0].device, budget.learning_rate
    cuda = device.type == "cuda"
    shared = {"lr": torch.tensor(rate, device=device) if cuda else rate}
    if budget.optimizer == "sgd":
        return _uncompiled(torch.optim.SGD)(groups, **shared, fused=cuda)
    kind = torch.optim.Adam if budget.optimizer == "adam" else torch.optim.AdamW
    betas = (budget.betas[0], budget.betas[1])
    return _uncompiled(kind)(groups, **shared, betas=betas, fused=True, capturable=cuda)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Set the learning rate of the next step; a tensor's must not leave its device."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"].fill_(rate)


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
    graphs: bool = True,
    expected_NKV: Tensor | None = None,
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
        graphs: whether a CUDA device replays steps (charlm.training.cuda_graphs).
        expected_NKV: what a residual model's `study` of the training split returned; None for all
            others.

    Raises:
        UserError: the loss is not a finite number; the last snapshot is as it was.
        Interrupted: a signal asked for an end; a snapshot was taken.
    """
    steps = budget.steps_on(len(train_N))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + ranks.rank)
    optimizer = make_optimizer(model, budget)
    # A residual model is told places in the text, and looks up what stands there and was expected.
    text_N = train_N if expected_NKV is None else torch.arange(len(train_N), device=train_N.device)
    stream = batches.KINDS[budget.batches](text_N, budget.batch, budget.block, generator)
    carries = budget.batches == "streams"
    show_every = max(1, min(100, budget.validate_every // 10))
    state: State = None
    done = _Progress()
    if snapshot is not None:
        state = _restore(snapshot, model, optimizer, done)
        # Batches depend on the generator alone, so that drawing them again leads to the same place.
        for _ in range(done.step):
            next(stream)
        for point in done.curve:
            report(point)
        advance(done.step, done.curve[-1].train_nats)

    def add_point(point: Point) -> None:
        done.curve.append(point)
        report(point)

    def validation_nats() -> float:
        return estimate(model, validation_N, budget.block, budget.validation_characters)

    def stop_if_not_finite(nats: float, rate: float) -> None:
        if not math.isfinite(nats):
            raise UserError(
                f"the training loss is {nats} at step {done.step} (learning rate {rate:.3g}): "
                "nothing was saved; lower learning_rate or clip"
            )

    weights = next(model.parameters())
    precision = arithmetic(budget.precision, weights.device)
    predict = ranks.wrap(model)

    def step(batch: batches.Batch, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        """Move the weights by one batch; return its nats a character and the state after it."""
        set_learning_rate(optimizer, rate)
        (inputs_BT, targets_BT, _), weight = ranks.share(batch)
        expected: tuple[Tensor, ...] = ()
        if expected_NKV is not None:
            expected = (expected_NKV[inputs_BT].to(weights.dtype),)
            inputs_BT, targets_BT = train_N[inputs_BT].long(), train_N[targets_BT].long()
        with precision:
            logits_BTV, state = predict(inputs_BT, state, *expected)
        logits_NV = logits_BTV.flatten(0, 1).to(weights.dtype)
        targets_N = targets_BT.flatten()
        nats = weight * functional.cross_entropy(logits_NV, targets_N)
        loss = nats
        if budget.label_smoothing:
            smoothing = budget.label_smoothing
            loss = weight * functional.cross_entropy(
                logits_NV, targets_N, label_smoothing=smoothing
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if budget.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
        with torch.no_grad():
            optimizer.step()
        return nats.detach(), detach(state) if carries else None

    take: cuda_graphs.Take = partial(cuda_graphs.plain, step)
    if graphs and weights.device.type == "cuda" and ranks.size == 1:
        at_once = max(k for k in range(1, STEPS_A_REPLAY + 1) if show_every % k == 0)
        take = cuda_graphs.Replayed(step, carries, at_once)
    untrained = None if done.curve else validation_nats()
    model.train()
    while done.step < steps:
        to_validation = budget.validate_every - done.step % budget.validate_every
        count = min(show_every, to_validation, steps - done.step)
        rates = [learning_rate_at(done.step + ahead, steps, budget) for ahead in range(count)]
        # Losses stay on their device until now, so that a GPU never waits for Python.
        losses, state = take(itertools.islice(stream, count), rates, state)
        nats = torch.stack(losses).cpu().double()
        if untrained is not None:
            first = ranks.mean(float(nats[0]))
            add_point(Point(0, 0, first, first, untrained, rates[0]))
            untrained = None
        done.step += count
        done.steps_since += count
        done.characters += count * budget.characters_a_step(len(train_N))
        total = ranks.mean(float(nats.sum()))
        mean = total / count
        stop_if_not_finite(mean, rates[-1])
        advance(count, mean)
        last = done.step == steps or (budget.stop_below is not None and mean < budget.stop_below)
        done.nats += total
        if last or done.step % budget.validate_every == 0:
            add_point(
                Point(
                    done.step,
                    done.characters,
                    done.nats / done.steps_since,
                    ranks.mean(float(nats[-1])),
                    validation_nats(),
                    rates[-1],
                )
            )
            done.nats, done.steps_since = 0.0, 0
        if last:
            break
        if keeper is not None and ranks.any(keeper.due):
            for parameter in model.parameters():
                stop_if_not_finite(float(parameter.detach().sum()), rates[-1])
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
    last = targets - length
    # Beyond 2^24 float32 rounds, and may round up.
    starts_W = torch.linspace(0, last, count, device=ids_N.device).long().clamp(max=last)
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
