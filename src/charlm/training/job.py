"""What the stage `train` runs: a model, a text and a machine, together for one training."""

import csv
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from charlm import models, saved_model
from charlm.cli import progress
from charlm.errors import UserError
from charlm.files import write_json, write_text
from charlm.models.base import start_torch
from charlm.training import activations, checkpoint, distributed, memory
from charlm.training.trainer import Point, Trainer

if TYPE_CHECKING:
    from charlm.config.params import Run
    from charlm.data.encoding import Ids

CODE = ("config/training.py", "data/*.py", "training/*.py")
"""The code that decides what a training becomes, beside that of its architecture."""


@dataclass(frozen=True)
class Text:
    """The encoded corpus.

    Attributes:
        splits: ids by split.
        symbols: of the vocabulary, in order.
        files: that hold the ids.
    """

    splits: "dict[str, Ids]"
    symbols: str
    files: list[Path]


class Job:
    """One training of the pipeline: `with job.checkpoints:`, then prepare, fit and save.

    Args:
        run: of params.yaml.
        text: to train on.
        seconds: between two checkpoints.

    Attributes:
        ranks: which process of the training this is.
        model: on the fastest device.
        config: of the saved model.
        checkpoints: the file to go on from.
        trainer: once it is prepared; None if the model only counts.
        activations: statistics of every layer before and after training; empty without steps.
        resumed: the step that the training goes on from; 0 if it begins.
        curve: the loss curve; empty for a model that only counts.
        seconds: that preparing and training took in this process.

    Raises:
        UserError: there is not enough memory, or there are more processes than sequences.
    """

    def __init__(self, run: "Run", text: Text, seconds: float) -> None:
        self.run = run
        self.ranks, self.device = distributed.start(start_torch(run.training.threads))
        if run.training.batch and run.training.batch < self.ranks.size:
            raise UserError(
                f"{self.ranks.size} processes cannot share a batch of {run.training.batch}: start "
                "fewer, or choose a larger batch"
            )
        self.config = saved_model.Config.of(run, text.symbols)
        torch.manual_seed(run.seed)
        self.model = memory.build(run.name, self.config).to(self.device)
        ids = {split: torch.from_numpy(part).to(self.device) for split, part in text.splits.items()}
        self.train_N = torch.cat(list(ids.values())) if run.text == "all" else ids["train"]
        self.validation_N = ids["validation"]
        self.steps = run.training.steps_on(len(self.train_N))
        memory.check(run.name, self.model, run.training, len(self.train_N), len(text.symbols))
        self.machine = {"device": self._device_name(), "version.torch": torch.__version__}
        package = models.FOLDER.parent
        code = [file for pattern in CODE for file in sorted(package.glob(pattern))]
        self.identity = checkpoint.fingerprint(
            [asdict(self.config), asdict(self.ranks), self.machine, *code, *text.files]
        )
        name = f"{run.name}-{self.ranks.rank}" if self.ranks.rank else run.name
        self.checkpoints = checkpoint.CheckpointFile(
            checkpoint.folder(), name, self.identity, seconds
        )
        self.resumed = 0
        self.curve: list[Point] = []
        self.seconds = 0.0
        self.trainer: Trainer | None = None
        self.activations: dict[str, Any] = {}

    @property
    def first(self) -> bool:
        """Whether this process writes and shows: the first of those that share the training."""
        return self.ranks.rank == 0

    @property
    def characters_per_second(self) -> float:
        """Characters trained on, or counted, per second in this process."""
        if not self.curve:
            return len(self.train_N) / self.seconds
        before = self.resumed * self.run.training.characters_per_step(len(self.train_N))
        return (self.curve[-1].characters - before) / self.seconds

    def prepare(self) -> None:
        """Count what the model counts, and go to where a checkpoint left off."""
        started = time.perf_counter()
        title = f"{self.run.name}: preparing"
        with progress(len(self.train_N) - 1, "char", title, self.first) as bar:
            features_NKV = self.model.prepare(self.train_N, bar.update)
        self.seconds = time.perf_counter() - started
        if not self.steps:
            self.model.eval()
            return
        # Counts flatter the text that they are of: such a model is looked at on validation.
        self._looked_N = self.train_N if features_NKV is None else self.validation_N
        self._look("initial")
        self.trainer = Trainer(
            self.model,
            self.train_N,
            self.validation_N,
            self.run.training,
            self.run.seed + 1,
            features_NKV=features_NKV,
            checkpoints=self.checkpoints,
            ranks=self.ranks,
        )
        self.resumed = self.trainer.progress.step

    def fit(self, on_point: Callable[[Point], None], results: Path) -> None:
        """Train the model; it takes no steps if it only counts.

        Args:
            on_point: called with each point of the loss curve.
            results: folder whose curve.csv grows with each point, so that it can be plotted.

        Raises:
            UserError: the loss is not a finite number.
            Interrupted: a signal asked for an end; a checkpoint was saved.
        """
        if self.trainer is None:
            return
        started = time.perf_counter()
        so_far: list[Point] = []

        def see(point: Point) -> None:
            so_far.append(point)
            if self.first:
                write_text(results / "curve.csv", table(so_far))
            on_point(point)

        with self._shown(so_far) as on_steps:
            self.curve = self.trainer.fit(see, on_steps)
        self.seconds += time.perf_counter() - started
        self._look("trained")

    def save(self, folder: Path, results: Path) -> None:
        """Write the saved model, its curve and its activations, then remove the checkpoint.

        Args:
            folder: of the saved model.
            results: folder of the results.
        """
        if self.first:
            saved_model.save(folder, self.model, self.config)
            write_text(results / "curve.csv", table(self.curve))
            write_json(results / "activations.json", self.activations)
        # No process removes its checkpoint before everything is written.
        self.ranks.mean(0.0)
        self.checkpoints.remove()

    def _look(self, when: str) -> None:
        block = self.run.training.block
        self.activations[when] = activations.statistics(self.model, self._looked_N, block)

    @contextmanager
    def _shown(self, so_far: list[Point]) -> "Iterator[Callable[[int, float], None]]":
        """Show the progress of the training; yield what moves it on.

        Args:
            so_far: the points of the loss curve, which grow.
        """
        per_step = self.run.training.characters_per_step(len(self.train_N))
        with progress(self.steps * per_step, "char", self.run.name, self.first) as bar:

            def on_steps(count: int, nats: float) -> None:
                step = bar.n // per_step + count
                seen = f", validation {so_far[-1].validation_nats:.3f}" if so_far else ""
                bar.set_postfix_str(f"step {step:,}/{self.steps:,}, {nats:.3f} nats{seen}", False)
                bar.update(count * per_step)

            yield on_steps

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        if self.device.type == "cpu":
            return f"cpu, {torch.get_num_threads()} threads"
        return self.device.type


def table(curve: list[Point]) -> str:
    """Return a loss curve as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in curve)
    return text.getvalue()


def plan_in_words(run: "Run") -> str:
    """Return how much a training reads, for a person."""
    plan = run.training
    if not (plan.steps or plan.epochs):
        return "counts the text once"
    length = f"{plan.steps:,} steps" if plan.steps else f"{plan.epochs:,} epochs"
    batch = f"{plan.batch:,} x {plan.block:,} characters" if plan.batch else "all of the text"
    return f"{length} of {batch}"
