"""One side of comparisons: a configuration, trained with every seed and scored.

Each side gets the same small search: its learning rate times a third, one and three, tried with the
first seed and chosen on validation; if the best is the lowest or the highest, the next one is tried
too, twice at most. So no idea is credited with a better rate, nor blamed for a worse one.

Shapes: N targets of the holdout, of which the first are validation's; C chunks; V vocabulary.
"""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from charlm import saved_model
from charlm.config.params import Run, Sampling, Seed
from charlm.config.schema import Positive, PositiveRate, Schema
from charlm.config.training import Training
from charlm.data.encoding import Ids
from charlm.errors import UserError
from charlm.evaluation import loss
from charlm.files import read_json, write_array, write_json
from charlm.ideas import code
from charlm.ideas.kinds import KINDS, SEEN, UNSEEN, kinds, seen
from charlm.training import checkpoint, job
from charlm.training.trainer import Diverged, Point

FINISHED = ".finished"
"""In the pipeline's folder: runs that are done. A stopped stage goes on after them, and more seeds
add to them. Git and DVC ignore it."""

WINDOW = 256
"""Characters in a window of fresh context."""

CHUNK = 512
"""Targets in a piece of validation: for the error over the text."""

STEP, MOST_FURTHER = 3.0, 2
"""Factor between two learning rates, and how many are tried beyond those of the side."""

CHECKPOINT_S = 30.0
PREDICTIONS = "log_probabilities.npy"

NO_SAMPLING = Sampling(
    prompt=None,
    length=1,
    temperature=1.0,
    top_k=None,
    top_p=None,
    context=None,
    samples=1,
    seed=0,
)


class Side(Schema):
    """A configuration as it stands in ideas/params.json.

    Attributes:
        model: the architecture.
        architecture: its sizes.
        training: the whole training configuration.
        seeds: one run each; a model without randomness has one.
        rates: factors of the learning rate that are tried; empty for a model that only counts.
        keep: whether its models and predictions are kept, for ensembles and dynamic evaluation.
        targets: of validation and of test, at most; null means all.
    """

    model: str
    architecture: dict[str, Any]
    training: dict[str, Any]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    rates: list[PositiveRate]
    keep: bool
    targets: Positive | None

    def run(self, name: str, seed: int, rate: float) -> Run:
        """Return one training of it.

        Args:
            name: of the side.
            seed: of the run.
            rate: factor of the learning rates.
        """
        plan = dict(self.training)
        for key in ("learning_rate", "final_learning_rate"):
            plan[key] *= rate
        return Run(
            name=f"idea-{name}-{seed}-{rate:.3g}",
            entry=name,
            model=self.model,
            architecture=self.architecture,
            training=Training(**plan),
            sampling=NO_SAMPLING,
            text="train",
            seed=seed,
        )


class Holdout:
    """The text that a side is scored on.

    Args:
        splits: ids of each split.
        symbols: of the vocabulary, in order.
        targets: of each half, at most.
    """

    def __init__(self, splits: dict[str, Ids], symbols: str, targets: int | None) -> None:
        train, validation, test = (ids.astype(np.int64) for ids in splits.values())
        validation, test = validation[:targets], test[:targets]
        self.validation = len(validation)
        self.targets_N = np.concatenate([validation, test])
        self.ids = torch.from_numpy(np.concatenate([train[-1:], self.targets_N]))
        text = "".join(symbols[place] for place in validation)
        kinds_T, seen_T = kinds(text), seen(train, validation, len(symbols))
        self._of_kind = {kind: kinds_T == place for place, kind in enumerate(KINDS)}
        self._of_kind |= {SEEN: seen_T, UNSEEN: ~seen_T}

    def content(self, nats_N: NDArray[np.float64]) -> dict[str, Any]:
        """Return what is kept of the scores of a run: sums of nats, and the losses in bits.

        Args:
            nats_N: of every target, streaming.
        """
        validation, test = nats_N[: self.validation], nats_N[self.validation :]
        pieces = [validation[k : k + CHUNK] for k in range(0, len(validation), CHUNK)]
        return {
            "validation": bits(validation),
            "test": bits(test),
            "kinds": {
                kind: [int(where.sum()), math.fsum(validation[where])]
                for kind, where in self._of_kind.items()
            },
            "chunks": [round(math.fsum(piece), 4) for piece in pieces],
        }


def bits(nats_N: NDArray[np.float64]) -> float:
    """Return bits per character of nats per target."""
    return math.fsum(nats_N) / len(nats_N) / math.log(2)


class Measurement:
    """Trains a side with every seed and scores it.

    Args:
        name: of the side.
        side: its configuration.
        text: to train on.
        folder: of the pipeline; what is kept of the models goes to models/NAME in it.
        say: called with a line about each run.
    """

    def __init__(
        self, name: str, side: Side, text: job.Text, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._name, self._side, self._text, self._say = name, side, text, say
        self._finished, self._models = folder / FINISHED, folder / "models" / name
        self._holdout = Holdout(text.splits, text.symbols, side.targets)

    def results(self) -> dict[str, Any]:
        """Return the results of all seeds, at the best learning rate.

        Raises:
            UserError: no learning rate trained it.
            Interrupted: a signal asked for an end; a checkpoint was saved.
        """
        first, *others = self._side.seeds
        found: dict[float, dict[str, Any]] = {}
        tried: list[float] = []
        waiting, further = list(self._side.rates) or [1.0], MOST_FURTHER if self._side.rates else 0
        while waiting:
            rate = waiting.pop(0)
            tried.append(rate)
            try:
                found[rate] = self._result(first, rate)
            except Diverged as error:
                self._say(f"{self._name}, learning rate times {rate:.3g}: {error}")
            if not waiting and found and further:
                best, further = _best(found), further - 1
                if best in (min(tried), max(tried)):
                    waiting = [best * STEP if best == max(tried) else best / STEP]
        if not found:
            raise UserError(f"{self._name}: no learning rate trained it: lower learning_rate")
        best = _best(found)
        runs = [found[best], *(self._result(seed, best) for seed in others)]
        for name in (run["name"] for run in runs if self._side.keep):
            shutil.copytree(self._finished / name, self._models / name, dirs_exist_ok=True)
        # A rate that diverged has no loss.
        losses = {
            f"{rate:.3g}": found[rate]["validation"] if rate in found else None
            for rate in sorted(tried)
        }
        best_rate = f"{best:.3g}" if self._side.rates else None
        return {"side": self._name, "rates": losses, "best_rate": best_rate, "runs": runs}

    def _result(self, seed: int, rate: float) -> dict[str, Any]:
        """Return the results of a run; if it was done before, without doing it again."""
        training = job.Job(self._side.run(self._name, seed, rate), self._text, CHECKPOINT_S)
        digests = code.digests([self._side.model])
        identity = checkpoint.fingerprint([training.identity, len(self._holdout.ids), digests])
        name = training.run.name
        file = self._finished / f"{name}.json"
        # DVC removes what a stage that was stopped left in its outputs.
        kept = self._finished / name if self._side.keep else None
        done = read_json(file) if file.is_file() else {}
        if done.get("identity") == identity and (kept is None or (kept / PREDICTIONS).is_file()):
            result: dict[str, Any] = done["result"]
            return result
        result = _trained(training, self._holdout, self._finished / "curves" / name, kept)
        write_json(file, {"identity": identity, "result": result})
        self._say(f"{name}: {result['validation']:.4f} bits per character on validation")
        return result


def _best(found: dict[float, dict[str, Any]]) -> float:
    """Return the learning rate, as a factor, with the lowest loss on validation."""
    return min(found, key=lambda rate: found[rate]["validation"])


def _trained(
    training: job.Job, holdout: Holdout, scratch: Path, kept: Path | None
) -> dict[str, Any]:
    """Train, score and return the results.

    Args:
        training: not begun yet.
        holdout: to score.
        scratch: folder for the loss curve while it grows.
        kept: folder for the model and its predictions; None keeps neither.
    """
    # Of the processor, so that what else the machine does counts as little as it can.
    clock = time.process_time if training.device.type == "cpu" else time.perf_counter
    curve: list[list[float]] = []
    with training.checkpoints:
        started = clock()

        def see(point: Point) -> None:
            seconds = clock() - started
            curve.append([point.characters, seconds, point.validation_nats / math.log(2)])

        training.prepare()
        resumed = training.resumed > 0
        training.fit(see, scratch)
        seconds = clock() - started
        training.checkpoints.remove()
    if training.checkpoints.asked:  # too late for a checkpoint
        raise KeyboardInterrupt
    model, device = training.model, training.device
    rows_NV = None
    if kept is not None:
        shape = len(holdout.targets_N), len(training.config.symbols)
        rows_NV = torch.empty(shape, dtype=torch.float16)
    ids = holdout.ids.to(device)
    nats_N, _ = loss.streaming(model, ids, rows_RV=rows_NV)
    windowed_N, _ = loss.windowed(model, ids[: holdout.validation + 1], WINDOW)
    if kept is not None and rows_NV is not None:
        saved_model.save(kept, model, training.config)
        write_array(kept / PREDICTIONS, rows_NV.numpy())
    counted = not training.curve
    characters = len(training.train_N) if counted else int(curve[-1][0])
    return {
        "name": training.run.name,
        "seed": training.run.seed,
        "learning_rate": None if counted else training.run.training.learning_rate,
        "parameters": training.model.parameter_count,
        "characters": characters,
        # What was interrupted has no seconds that mean anything.
        "seconds": None if resumed else round(seconds, 2),
        "windowed": bits(windowed_N.numpy()),
        **holdout.content(nats_N.numpy()),
        "curve": [] if resumed else [[int(c), round(s, 2), round(b, 4)] for c, s, b in curve],
    }
