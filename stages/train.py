"""Train one run: a model on a text, with a seed."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import click

from charlm import timings, tracking
from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import project_root, write_json

if TYPE_CHECKING:
    from charlm.evaluation.learning import Learning
    from charlm.training.job import Job
    from charlm.training.trainer import Point

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("A run of params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Train a run into models/RUN/, and write its curve and what it did to results/RUN/.

    The sizes and the training are those of `scale` in params.yaml, on the fastest device of this
    machine. A stopped training goes on from its last checkpoint. Several processes share a training
    under torchrun, or with `processes` in params.yaml.

    \b
    Examples:
      charlm train --model lstm
      torchrun --nproc-per-node 2 -m stages.train --model lstm
    """
    settings = params.load()
    run = settings.run(name)
    splits = encoding.load_splits(ENCODED)
    encoding.check_lengths({split: len(ids) for split, ids in splits.items()}, run)
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if settings.processes > 1 and not launched:
        launch(name, settings.processes)
    # A process beside this one imports MLflow while torch is imported here.
    first = os.environ.get("RANK", "0") == "0"
    tracker = tracking.Tracker(settings.corpus.name, project_root(), on=first)

    from charlm.training import distributed, job

    text = job.Text(
        splits,
        Vocabulary.load(ENCODED / "vocabulary.json").symbols,
        sorted(ENCODED.glob("*.npy")),
    )
    try:
        try:
            training = job.Job(run, text, settings.checkpoint_every)
        except UserError as error:
            raise UserError(f"{error}, or leave out: {settings.leaving_out(name)}") from None
        if training.first:
            click.echo(f"{name}: {job.plan_in_words(run)}", err=True)
        with ended(tracker, name, training.first), training.checkpoints:
            training.prepare()
            if training.resumed and training.first:
                click.echo(f"{name}: going on after step {training.resumed:,}", err=True)
            start(tracker, training, settings)
            learning = fit(tracker, training)
            if training.first:
                write_json(RESULTS / name / "learning.json", learning.content)
            training.save(MODELS / name, RESULTS / name)
            if training.first:
                learning.remove()
    finally:
        distributed.stop()
    if training.first:
        publish(tracker, training)


def torchrun(processes: int) -> list[str]:
    """Return the command that starts processes on this machine."""
    # By default they call each other by the host's name, which some machines cannot look up.
    local = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    return [sys.executable, "-m", "torch.distributed.run", *local]


def launch(name: str, processes: int) -> NoReturn:
    """Become torchrun, which starts the processes that share a training."""
    # In place of this process, so that a signal reaches it.
    os.execv(sys.executable, [*torchrun(processes), "-m", "stages.train", "--model", name])


def start(tracker: tracking.Tracker, training: "Job", settings: params.Params) -> None:
    """Open the run in MLflow."""
    config = {key: value for key, value in asdict(training.config).items() if key != "symbols"}
    run = {"entry": training.run.entry, "scale": settings.scale}
    tracker.start(
        training.run.name,
        {**run, "parameters": training.model.parameter_count, **config},
        training.machine | {"training.identity": training.identity},
        {"name": settings.corpus.name, **encoding.describe(ENCODED)},
        training.resumed > 0,
    )


def fit(tracker: tracking.Tracker, training: "Job") -> "Learning":
    """Train, and keep what the beginning of validation costs on the way, outside of its seconds."""
    import torch

    from charlm.evaluation.learning import Learning
    from charlm.training import checkpoint

    name = f"{training.run.name}-{training.identity[: checkpoint.DIGITS]}.learning.json"
    before_N = training.train_N[-1:]
    learning = Learning(
        torch.cat([before_N, training.validation_N]), checkpoint.folder() / name, training.resumed
    )

    def see(step: int) -> None:
        # A model that is trained on all of the text knows validation.
        if training.first and training.run.text == "train":
            learning.see(training.model, step)

    def on_point(point: "Point") -> None:
        tracker.point(point)
        # The point of step 0 is reported after the first steps, when the model has changed.
        if point.step:
            see(point.step)

    if training.steps and not training.resumed:
        see(0)
    before_s = learning.seconds
    training.fit(on_point, RESULTS / training.run.name)
    training.seconds -= learning.seconds - before_s
    return learning


@contextmanager
def ended(tracker: tracking.Tracker, name: str, shown: bool) -> Iterator[None]:
    """Close the run in MLflow if the training does not end well, and say why it did not."""
    from charlm.training.checkpoint import Interrupted

    try:
        yield
    except Interrupted as stopped:
        tracker.fail("KILLED")
        if shown:
            click.echo(f"{name}: {stopped}; `dvc repro` goes on from there", err=True)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        tracker.fail("KILLED")
        raise
    except UserError as error:
        tracker.fail("FAILED")
        raise UserError(f"{name}: {error}") from None
    except BaseException:
        tracker.fail("FAILED")
        raise


def publish(tracker: tracking.Tracker, training: "Job") -> None:
    """Send weights, curve and activations to MLflow, note the seconds, and say how it ended."""
    from charlm import saved_model

    name, seconds = training.run.name, training.seconds
    folder, results = MODELS / name, RESULTS / name
    tracker.finish(
        {
            "train_seconds": seconds,
            "characters_per_second": training.characters_per_second,
            **tracking.flow_metrics(training.activations),
        },
        {"weights_sha256": tracking.weights_digest(folder)},
        [
            folder / saved_model.WEIGHTS,
            folder / saved_model.CONFIG,
            results / "curve.csv",
            results / "activations.json",
        ],
    )
    if not training.resumed:
        # The model is there: a full disk must not fail its training now.
        with suppress(UserError):
            timings.record(project_root(), name, timings.training_key(folder, ENCODED), seconds)
    speed = f"{training.characters_per_second:,.0f} characters/s"
    speed = f"{seconds:.1f} s on {training.device.type} ({speed})"
    if not training.curve:
        click.echo(f"{name}: {training.model.parameter_count:,} counts in {speed}", err=True)
        return
    last = training.curve[-1]
    click.echo(
        f"{name}: {last.step:,} steps in {speed}; validation estimate "
        f"{last.validation_nats:.4f} nats, {last.validation_nats / math.log(2):.4f} bits",
        err=True,
    )


if __name__ == "__main__":
    main()
