"""The training loop, the same for every model. It knows nothing of files, DVC or MLflow.

Shapes: B batch, T time, N length of a split, S steps, K features per character, V vocabulary.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from charlm.data import batches
from charlm.data.batches import Batch
from charlm.errors import UserError
from charlm.models.base import LanguageModel, State, detach
from charlm.training import cuda_graphs
from charlm.training.checkpoint import CheckpointFile, capture, restore
from charlm.training.distributed import ALONE, Ranks
from charlm.training.optimizer import (
    Average,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
)

if TYPE_CHECKING:
    from charlm.config.training import Training

UNBOUNDED_WINDOW = 512
"""Characters in a window of the validation estimate for a model that carries its state."""

CHARACTERS_PER_PASS = 8192
"""Characters that the validation estimate scores in one call of the model."""

STEPS_PER_GRAPH = 10
"""Training steps in one CUDA graph, at most: beyond that Python's share is small."""


class Diverged(UserError):
    """The loss or the weights are no finite numbers any more."""


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


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: optimiser steps taken.
        characters: characters trained on.
        nats: sum of the steps' mean losses since the last point of the curve.
        steps_since: steps since the last point of the curve.
        curve: the points so far.
    """

    step: int
    characters: int
    nats: float
    steps_since: int
    curve: list[Point]


class Trainer:
    """One training: `step` moves the weights by one batch, `fit` is the whole loop.

    Args:
        model: on the device that it is to be trained on; `fit` leaves it in evaluation mode.
        train_N: ids of the training text, on the same device.
        validation_N: ids of the validation split, on the same device.
        plan: the training configuration.
        seed: of batches and dropout.
        features_NKV: what `model.prepare` returned.
        checkpoints: where to go on from and where to save; None for neither.
        ranks: which part of each batch is this process's.
        graphs: whether a CUDA device replays steps as CUDA graphs.
    """

    def __init__(
        self,
        model: LanguageModel,
        train_N: Tensor,
        validation_N: Tensor,
        plan: "Training",
        seed: int,
        *,
        features_NKV: Tensor | None = None,
        checkpoints: CheckpointFile | None = None,
        ranks: Ranks = ALONE,
        graphs: bool = True,
    ) -> None:
        torch.manual_seed(seed + ranks.rank)
        self.model, self.plan, self.ranks = model, plan, ranks
        self.validation_N = validation_N
        self.steps = plan.steps_on(len(train_N))
        self.characters_per_step = plan.characters_per_step(len(train_N))
        self.optimizer = make_optimizer(model, plan)
        self.average = Average(model, self.optimizer, plan.weight_averaging)
        self.weights = next(model.parameters())
        self.batches = _batches(train_N, plan, seed, features_NKV)
        self.carries = plan.batches == "streams"
        self.predict = ranks.wrap(model)
        self.precision = arithmetic(plan.precision, self.weights.device)
        # Losses stay on their device for so many steps, so that a GPU never waits for Python.
        self.chunk = max(1, min(100, plan.validate_every // 10))
        self.run: cuda_graphs.Steps = self.take_steps
        graphs = graphs and plan.optimizer != "muon"  # its learning rate is no tensor
        if graphs and self.weights.device.type == "cuda" and ranks.size == 1:
            count = max(k for k in range(1, STEPS_PER_GRAPH + 1) if self.chunk % k == 0)
            self.run = cuda_graphs.GraphedSteps(self.take_steps, self.carries, count)
        self.checkpoints = checkpoints
        self.state: State = None
        self.progress = Progress(step=0, characters=0, nats=0.0, steps_since=0, curve=[])
        self.finished = False
        self._restore()

    def fit(
        self,
        on_point: Callable[[Point], None] = lambda point: None,
        on_steps: Callable[[int, float], None] = lambda steps, nats: None,
    ) -> list[Point]:
        """Train the model in place and return its loss curve.

        Args:
            on_point: called with each point of the curve as soon as it is known, and at first with
                those of before a restart.
            on_steps: called now and then with the number of steps taken since the last call and
                their mean loss in nats, for a progress display. `stop_below` looks at this mean.

        Raises:
            Diverged: the loss is not a finite number; the last checkpoint is as it was.
            Interrupted: a signal asked for an end; a checkpoint was saved.
        """
        self.on_point, self.on_steps = on_point, on_steps
        self._report_past()
        untrained = None if self.progress.curve else self.validation_nats()
        self.model.train()
        while not self.finished:
            rates = self._next_rates()
            next_batches = itertools.islice(self.batches, len(rates))
            losses, self.state = self.run(next_batches, rates, self.state)
            self._record(torch.stack(losses).cpu().double(), rates, untrained)
            self._save_if_due()
        self.average.swap()
        self.model.eval()
        return self.progress.curve

    def take_steps(
        self, some: Iterable[Batch], rates: Iterable[float | Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        """Take a step for each batch; return the losses and the last state.

        Args:
            some: batches, as many as there are rates.
            rates: learning rates.
            state: before the first batch. A fresh batch starts without a state.
        """
        losses = []
        for batch, rate in zip(some, rates, strict=True):
            loss, state = self.step(batch, rate, None if batch.fresh else state)
            losses.append(loss)
        return losses, state

    def step(self, batch: Batch, rate: float | Tensor, state: State) -> tuple[Tensor, State]:
        """Move the weights by one batch.

        Args:
            batch: of the text.
            rate: the learning rate.
            state: carried from the batch before; None starts afresh.

        Returns:
            the loss in nats per character and the state after the batch, both detached.
        """
        set_learning_rate(self.optimizer, rate)
        # Alone, a process has the whole batch, and a weight of 1.
        (inputs_BT, targets_BT, _, features_BTKV), weight = self.ranks.share(batch)
        features = () if features_BTKV is None else (features_BTKV.to(self.weights.dtype),)
        with self.precision:
            logits_BTV, state = self.predict(inputs_BT, state, *features)
        logits_NV = logits_BTV.flatten(0, 1).to(self.weights.dtype)
        targets_N = targets_BT.flatten()
        nats = loss = weight * functional.cross_entropy(logits_NV, targets_N)
        if smoothing := self.plan.label_smoothing:
            smoothed = functional.cross_entropy(logits_NV, targets_N, label_smoothing=smoothing)
            loss = weight * smoothed
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.plan.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        with torch.no_grad():
            self.optimizer.step()
            self.average.add()
        return nats.detach(), detach(state) if self.carries else None

    def validation_nats(self) -> float:
        """Return the validation estimate, nats per character."""
        plan = self.plan
        self.average.swap()
        nats = estimate(self.model, self.validation_N, plan.block, plan.validation_characters)
        self.average.swap()
        return nats

    def _next_rates(self) -> list[float]:
        """Return a learning rate for each step of the next chunk."""
        first = self.progress.step
        to_validation = self.plan.validate_every - first % self.plan.validate_every
        count = min(self.chunk, to_validation, self.steps - first)
        return [learning_rate_at(first + k, self.steps, self.plan) for k in range(count)]

    def _record(self, nats_S: Tensor, rates: list[float], untrained: float | None) -> None:
        """Count the steps just taken, add points to the curve, and see whether this was the end."""
        now, count = self.progress, len(rates)
        if untrained is not None and not now.curve:
            first = self.ranks.mean(float(nats_S[0]))
            self._add(Point(0, 0, first, first, untrained, rates[0]))
        total = self.ranks.mean(float(nats_S.sum()))
        mean = total / count
        now.step += count
        now.steps_since += count
        now.characters += count * self.characters_per_step
        now.nats += total
        self._check_finite(mean, rates[-1])
        self.on_steps(count, mean)
        enough = self.plan.stop_below is not None and mean < self.plan.stop_below
        self.finished = enough or now.step == self.steps
        if self.finished or now.step % self.plan.validate_every == 0:
            batch = self.ranks.mean(float(nats_S[-1]))
            train = now.nats / now.steps_since
            validation = self.validation_nats()
            # The training loss is of before the last update.
            self._check_finite(validation, rates[-1], "validation")
            self._add(Point(now.step, now.characters, train, batch, validation, rates[-1]))
            now.nats, now.steps_since = 0.0, 0

    def _add(self, point: Point) -> None:
        self.progress.curve.append(point)
        self.on_point(point)

    def _check_finite(self, nats: float, rate: float, which: str = "training") -> None:
        if not math.isfinite(nats):
            raise Diverged(
                f"the {which} loss is {nats} at step {self.progress.step} (learning rate "
                f"{rate:.3g}): nothing was saved; lower learning_rate or clip"
            )

    def _save_if_due(self) -> None:
        if self.finished or self.checkpoints is None or not self.ranks.any(self.checkpoints.due):
            return
        for parameter in self.model.parameters():
            rate = float(self.optimizer.param_groups[0]["lr"])
            self._check_finite(float(parameter.detach().sum()), rate)
        self.checkpoints.save(
            capture(self.model, self.optimizer, self.state, asdict(self.progress))
        )

    def _restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if not self.ranks.agree(found.content["step"] if found else 0) or found is None:
            return
        self.state = restore(found, self.model, self.optimizer)
        content: dict[str, Any] = {key: found.content[key] for key in asdict(self.progress)}
        content["curve"] = [Point(**point) for point in content["curve"]]
        self.progress = Progress(**content)
        # Batches depend on their generator alone: drawing them again leads to the same place.
        for _ in range(self.progress.step):
            next(self.batches)

    def _report_past(self) -> None:
        """Report what was trained before a restart."""
        for point in self.progress.curve:
            self.on_point(point)
        if self.progress.step:
            self.on_steps(self.progress.step, self.progress.curve[-1].train_nats)


def _batches(
    train_N: Tensor, plan: "Training", seed: int, features_NKV: Tensor | None
) -> Iterator[Batch]:
    """Return the endless batches of a training, with features if there are any."""
    draw = batches.KINDS[plan.batches]
    generator = torch.Generator().manual_seed(seed)
    if features_NKV is None:
        return draw(train_N, plan.batch, plan.block, generator)
    positions_N = torch.arange(len(train_N), device=train_N.device)
    positions = draw(positions_N, plan.batch, plan.block, generator)
    return batches.with_features(positions, train_N, features_NKV)


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


@torch.no_grad()
def estimate(model: LanguageModel, ids_N: Tensor, block: int, characters: int) -> float:
    """Return nats per character on windows spread evenly over a split, the same ones every time.

    An estimate to watch a run by, never a result: charlm.evaluation.loss scores every target.

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
    for some_W in starts_W.split(max(1, CHARACTERS_PER_PASS // length)):
        windows_WT = ids_N[some_W[:, None] + offsets_T].long()
        inputs_WT, targets_WT = windows_WT[:, :-1], windows_WT[:, 1:]
        logits_WTV, _ = model(inputs_WT)
        nats = functional.cross_entropy(
            logits_WTV.flatten(0, 1), targets_WT.flatten(), reduction="sum"
        )
        total += float(nats)
        count += targets_WT.numel()
    model.train(was_training)
    return total / count
