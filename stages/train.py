"""Train one model of the zoo."""

import contextlib
import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

# cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import click

from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import project_root, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from charlm.config.training import Training
    from charlm.training.trainer import Point

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("Entry under `models` or `residuals` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Train a model into models/MODEL/, its curve and activations into results/MODEL/.

    The budget is the one of `scale` in params.yaml. The device is the best of this machine. A
    training that was stopped goes on where it was. Several processes share it under torchrun, or
    with `processes` in params.yaml.

    \b
    Examples:
      python -m stages.train --model lstm
      torchrun --nproc-per-node 2 -m stages.train --model lstm
    """
    settings = params.load()
    entry = settings.model(name)
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}
    encoding.check_lengths({split: len(ids) for split, ids in splits.items()}, entry)
    if settings.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        share(name, settings.processes)
    else:
        train(settings, entry, splits)


def share(name: str, processes: int) -> None:
    """Train by several processes of this machine, which torchrun starts."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(processes), "-m", "stages.train", "--model", name]
    # Ctrl-C goes to all of them: they end by themselves, and this one after them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = subprocess.run(torchrun).returncode
    signal.signal(signal.SIGINT, handler)
    if status:
        sys.exit(status)


def train(settings: params.Params, entry: params.Trained, splits: dict[str, encoding.Ids]) -> None:
    """Train one entry and write what it became; torch is imported only now, after all checks."""
    from charlm import tracking

    # MLflow is imported by a process beside this one while torch is imported here.
    first = os.environ.get("RANK", "0") == "0"
    tracker = tracking.Tracker(settings.corpus.name, project_root(), on=first)

    import torch

    from charlm import saved_model
    from charlm.data.vocabulary import Vocabulary
    from charlm.models.base import ResidualModel, start_torch
    from charlm.training import activations, checkpoint, distributed, memory, trainer

    budget = entry.training
    ranks, device = distributed.start(start_torch())
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    seeds = settings.seeds_of(entry.name)
    config = saved_model.Config.of(entry, vocabulary.symbols, seeds)
    torch.manual_seed(seeds.initialisation)
    model = memory.build(entry.name, config).to(device)
    ids = {split: torch.from_numpy(splits[split]).to(device) for split in splits}
    seen = torch.cat(list(ids.values())) if entry.trained_on == "all" else ids["train"]
    surroundings = {"device": device_name(device), "version.torch": torch.__version__}
    code = Path(checkpoint.__file__).parent.rglob("*.py")
    files = sorted([*code, *ENCODED.glob("*.npy"), Path(__file__)])
    memory.check(entry.name, model, budget, len(seen), len(vocabulary))
    identity = checkpoint.fingerprint([asdict(config), asdict(ranks), surroundings, *files])
    kept = f"{entry.name}-{ranks.rank}" if ranks.rank else entry.name
    keeper = checkpoint.Keeper(checkpoint.FOLDER / kept, identity, settings.checkpoint_every)
    try:
        with keeper:
            snapshot = keeper.load()
            if not ranks.agree(snapshot.content["step"] if snapshot else 0):
                snapshot = None
            if snapshot and ranks.rank == 0:
                steps = snapshot.content["step"]
                click.echo(f"{entry.name}: going on after step {steps:,}", err=True)
            looked, expected, started = seen, None, time.perf_counter()
            if isinstance(model, ResidualModel):
                # Its counts know what they were fitted on by heart.
                looked = ids["validation"]
                with progress(
                    len(seen) - 1, "char", f"{entry.name}: counting", not ranks.rank
                ) as bar:
                    expected = model.study(seen, bar.update)
            studied = time.perf_counter() - started
            tracker.start(
                entry.name,
                {"entry": entry.name, "scale": settings.scale, "parameters": model.parameter_count}
                | {key: value for key, value in asdict(config).items() if key != "symbols"},
                surroundings | {"training.identity": identity},
                {"name": settings.corpus.name, **encoding.describe(ENCODED)},
                snapshot is not None,
            )
            flow = {"initial": activations.statistics(model, looked, budget.block)}
            started = time.perf_counter() - studied
            with watching(entry.name, budget, len(seen), ranks.rank == 0) as advance:
                curve = trainer.fit(
                    model,
                    seen,
                    ids["validation"],
                    budget,
                    seeds.training,
                    tracker.point,
                    advance,
                    snapshot,
                    keeper,
                    ranks,
                    expected_NKV=expected,
                )
            seconds = time.perf_counter() - started
            flow["trained"] = activations.statistics(model, looked, budget.block)
            folder, results = MODELS / entry.name, RESULTS / entry.name
            if ranks.rank == 0:
                saved_model.save(folder, model, config)
                write_text(results / "curve.csv", table(curve))
                write_json(results / "activations.json", flow)
            # Nobody forgets before everything is written.
            ranks.mean(0.0)
            keeper.forget()
    except checkpoint.Interrupted as stopped:
        tracker.fail("KILLED")
        if ranks.rank == 0:
            click.echo(f"{entry.name}: {stopped}; `dvc repro` goes on from there", err=True)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        tracker.fail("KILLED")
        raise
    except UserError as error:
        tracker.fail("FAILED")
        raise UserError(f"{entry.name}: {error}") from None
    except BaseException:
        tracker.fail("FAILED")
        raise
    finally:
        distributed.stop()
    if ranks.rank:
        return
    last = curve[-1]
    rate = (last.characters - (snapshot.content["characters"] if snapshot else 0)) / seconds
    tracker.finish(
        {"train_seconds": seconds, "characters_per_second": rate, **tracking.flow_metrics(flow)},
        {"weights_sha256": tracking.weights_digest(folder)},
        [
            folder / saved_model.WEIGHTS,
            folder / saved_model.CONFIG,
            results / "curve.csv",
            results / "activations.json",
        ],
    )
    click.echo(
        f"{entry.name}: {last.step:,} steps in {seconds:.1f} s on {device.type} "
        f"({rate:,.0f} characters/s); validation estimate {last.validation_nats:.4f} "
        f"nats, {last.validation_nats / math.log(2):.4f} bits",
        err=True,
    )


@contextlib.contextmanager
def watching(
    name: str, budget: "Training", characters: int, shown: bool
) -> "Iterator[Callable[[int, float], None]]":
    """Show the progress of a training on a text of so many characters; yield what moves it on."""
    steps_in_all = budget.steps_on(characters)
    per_step = budget.characters_a_step(characters)
    with progress(steps_in_all * per_step, "char", name, shown) as bar:

        def advance(steps: int, nats: float) -> None:
            step = bar.n // per_step + steps
            bar.set_postfix_str(f"step {step:,}/{steps_in_all:,}, {nats:.3f} nats", False)
            bar.update(steps * per_step)

        yield advance


def table(curve: "list[Point]") -> str:
    """Return a loss curve as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(curve[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in curve)
    return text.getvalue()


def device_name(device: "torch.device") -> str:
    """Return the device as a person knows it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else "mps"


if __name__ == "__main__":
    main()
