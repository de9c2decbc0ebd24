"""Trainings that published figures need and that are too long for the pipeline, recorded.

    python -m benchmarks.published [--shared] [--threads N] [NAME ...]

adds to benchmarks/published.json.

Without a name it trains what is not recorded yet.

- `spread`: how much the losses that documents C and D print vary from seed to seed and batch to
  batch: the tolerance of their rows.
- `starts`: the same of LMNet's first loss, by width.
- `shake_lstm`: document A's ShakeLSTM at its published 20 epochs of 100 batches, with its own
  validation on 10 random batches.
- `lmnet_N`: document B's LMNet, N wide, to step 500, where the published curve tells widths apart.
- `rnn`, `lstm_scratch`: document E's two, at the steps that its own corpus gave them.
- `published_lmnet`, `published_rnn`, `published_lstm_scratch`: the documents' whole trainings of
  10,000, 26,100 and 52,200 steps: hours each on two cores, and left out there unless named. LMNet's
  in bfloat16, which takes half of the time: after 500 steps it is within 0.0001 nats of float32.

What is recorded already is not trained again unless it is named. Each is written as soon as it
ends. A training that was stopped (not `spread` and `starts`) leaves the points of its curve, marked
as unfinished. It goes on from its last checkpoint, half a minute old at most, and ends in the same
figures; its seconds are then not known.
It needs data/encoded (`dvc repro encode`). Without --threads it uses all cores, so nothing else
should run beside it. Where something did, or a training was paused, say --shared: its seconds are
then no measure of speed.
"""

import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import (
    ENCODED,
    GPU_SCALE,
    ON_GPU,
    RECORDS,
    ROOT,
    at_scale,
    build,
    load,
    train,
)
from benchmarks.machine import machine
from charlm import models
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import batches, encoding
from charlm.data.vocabulary import Vocabulary
from charlm.evaluation import metrics
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel, start_torch
from charlm.sampling import Writer
from charlm.training import checkpoint
from charlm.training.trainer import Point

OUTPUT = RECORDS / "published.json"
KEPT = ROOT / checkpoint.FOLDER / "published"
"""What stopped trainings go on from."""
SPREAD = ("perceptron_full_batch_all", "perceptron_all", "mlp_all", "mlp_normalized_all", "bigram")
SPREAD_SEEDS = range(101, 111)
WIDTHS = (64, 128, 256, 512)
LMNET_BATCH, LMNET_BLOCK = 128, 256
EPOCH = 100
"""Batches in an epoch of ShakeLSTM's."""

Columns = Callable[[LanguageModel, int], dict[str, float]]
"""More columns of a loss curve, from the model at a step."""


class Unfinished(Exception):
    """A training that was stopped.

    Attributes:
        stop: when, and by what.
        result: what is known of it.
    """

    def __init__(self, stop: checkpoint.Interrupted, result: dict[str, Any]) -> None:
        super().__init__(str(stop))
        self.stop, self.result = stop, result


def no_columns(model: LanguageModel, step: int) -> dict[str, float]:
    """Return no more columns."""
    return {}


def random_batches(
    model: LanguageModel, ids_N: Tensor, batch: int, block: int, count: int, seed: int
) -> list[float]:
    """Return the loss, in nats per character, of each of some random batches of a text."""
    stream = batches.windows(ids_N, batch, block, torch.Generator().manual_seed(seed))
    was_training = model.training
    model.eval()
    losses = []
    with torch.no_grad():
        for _ in range(count):
            drawn = next(stream)
            logits_BTV, _ = model(drawn.inputs_BT)
            targets_N = drawn.targets_BT.flatten()
            nats = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_N)
            losses.append(float(nats))
    model.train(was_training)
    return losses


def record(run: params.Run, kept: Path, columns: Columns = no_columns) -> dict[str, Any]:
    """Train a run, or go on from what a stopped training left in a folder; score it, sample it."""
    device = start_torch(torch.get_num_threads())
    # The trainer reports step 0 when it has taken some steps already.
    untrained = columns(build(run, device)[0], 0)

    def watch(model: LanguageModel, point: Point) -> dict[str, float]:
        return columns(model, point.step) if point.step else untrained

    found = {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "run": run.name,
        "text": run.text,
        "architecture": run.architecture,
        "batch": run.training.batch,
        "block": run.training.block,
        "precision": run.training.precision,
    }
    try:
        model, config, curve, seconds = train(run, device, watch, kept)
    except checkpoint.Interrupted as stop:
        known = read_json(kept / "curve.json")
        raise Unfinished(
            stop, found | {"unfinished": True, "steps": known[-1]["step"], "curve": known}
        ) from None
    writer = Writer(model, config)
    one, _ = writer.spelt(run.sampling.model_copy(update={"samples": 1}))
    return found | {
        "steps": int(curve[-1]["step"]),
        "parameters": model.parameter_count,
        "seconds": None if seconds is None else round(seconds),
        "curve": curve,
        "losses": metrics.losses(model, config, encoding.load_splits(ENCODED), device)[0],
        "sample": writer.texts(one)[0],
    }


def spread() -> dict[str, Any]:
    """Train documents C's and D's models with other seeds; record what their documents print."""
    settings, device = at_scale("quick"), start_torch(torch.get_num_threads())
    losses: dict[str, dict[str, list[float]]] = {}
    for name in SPREAD:
        for seed in SPREAD_SEEDS:
            run = settings.run(name).model_copy(update={"seed": seed})
            _, _, curve, _ = train(run, device)
            for row in curve:
                key = str(int(row["step"]))
                losses.setdefault(name, {}).setdefault(key, []).append(row["batch_nats"])
        print(name, {step: statistics.fmean(row) for step, row in losses[name].items()}, flush=True)
    return {"machine": machine(device), "seeds": list(SPREAD_SEEDS), "batch_nats": losses}


def starts() -> dict[str, Any]:
    """Measure how much the first loss of LMNet varies from seed to seed, by width."""
    device = start_torch(torch.get_num_threads())
    all_N = torch.cat(list(load(device).values()))
    symbols = len(Vocabulary.load(ENCODED / "vocabulary.json"))
    losses: dict[str, dict[str, list[float]]] = {}
    for width in WIDTHS:
        name, first = f"lmnet_{width}", []
        for seed in SPREAD_SEEDS:
            torch.manual_seed(seed)
            model = models.build("lmnet", symbols, LMNET_BLOCK, {"n_embd": width}).to(device)
            first += random_batches(model, all_N, LMNET_BATCH, LMNET_BLOCK, 1, seed)
        losses[name] = {"0": first}
        print(name, statistics.fmean(first), flush=True)
    return {"machine": machine(device), "seeds": list(SPREAD_SEEDS), "batch_nats": losses}


def shake_lstm(kept: Path) -> dict[str, Any]:
    """Train ShakeLSTM as published; validate as its document does."""
    run = at_scale("full").run("shake_lstm")
    batch, block = run.training.batch, run.training.block
    assert batch is not None
    ids = load(start_torch(torch.get_num_threads()))
    held_N = torch.cat([ids["validation"], ids["test"]])

    def ten_batches(model: LanguageModel, step: int) -> dict[str, float]:
        losses = random_batches(model, held_N, batch, block, 100, 1 + step)
        tens = [statistics.fmean(losses[at : at + 10]) for at in range(0, 100, 10)]
        print(f"step {step}: {tens[0]:.4f} nats on ten validation batches", flush=True)
        return {"ten_batches_nats": tens[0], "ten_batches_sd": statistics.stdev(tens)}

    return record(run, kept, ten_batches) | {"steps_per_epoch": EPOCH}


def lmnet(width: int, kept: Path) -> dict[str, Any]:
    """Train LMNet of a width to step 500 with the published batches."""
    settings = at_scale("full", models__lmnet__full__n_embd=width, models__lmnet__full__steps=500)
    return record(settings.run("lmnet_all"), kept, lmnet_batches)


def lmnet_batches(model: LanguageModel, step: int) -> dict[str, float]:
    """Return mean and spread over ten batches of LMNet's, drawn for a step."""
    all_N = torch.cat(list(load(next(model.parameters()).device).values()))
    losses = random_batches(model, all_N, LMNET_BATCH, LMNET_BLOCK, 10, 1 + step)
    return {"batches_mean": statistics.fmean(losses), "batches_sd": statistics.stdev(losses)}


def published_lmnet(kept: Path) -> dict[str, Any]:
    """Train LMNet, as wide as fits the published curve best, for its 10,000 steps."""
    settings = at_scale(GPU_SCALE, **{f"models__lmnet__{GPU_SCALE}__precision": "bfloat16"})
    return record(settings.run("lmnet_all"), kept, lmnet_batches)


def published(name: str, kept: Path) -> dict[str, Any]:
    """Train one of document E's models for all its epochs."""
    return record(at_scale(GPU_SCALE).run(f"{name}_all"), kept)


def recurrent(name: str, steps: int, kept: Path) -> dict[str, Any]:
    """Train one of document E's models for the steps that its own corpus gave it."""
    section = f"models__{name}__full__"
    settings = at_scale("full", **{f"{section}epochs": None, f"{section}steps": steps})
    return record(settings.run(f"{name}_all"), kept)


SPREADS = {"spread": spread, "starts": starts}
RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "rnn": partial(recurrent, "rnn", 2100),
    **{f"lmnet_{width}": partial(lmnet, width) for width in WIDTHS},
    "shake_lstm": shake_lstm,
    "lstm_scratch": partial(recurrent, "lstm_output_gate", 4200),
    "published_lmnet": published_lmnet,
    "published_rnn": partial(published, "rnn"),
    "published_lstm_scratch": partial(published, "lstm_output_gate"),
}


@click.command()
@click.option("--shared", is_flag=True, help="Something else ran beside it.")
@click.option("--threads", default=os.cpu_count() or 1, type=click.IntRange(min=1))
@click.argument("names", nargs=-1, type=click.Choice([*SPREADS, *RUNS]))
@one_line_errors
def main(shared: bool, threads: int, names: tuple[str, ...]) -> None:
    """Train what is named, or all that is not recorded yet."""
    done = finished()
    missing = [name for name in SPREADS | RUNS if name not in done]
    start_torch(threads)
    if not ON_GPU:
        missing = [name for name in missing if not name.startswith("published")]
    for name in names or missing:
        print(f"{name}: running", flush=True)
        try:
            result = RUNS[name](KEPT / name) if name in RUNS else SPREADS[name]()
        except Unfinished as left:
            # A shorter part replaces nothing.
            if left.result["steps"] >= read()["runs"].get(name, {"steps": 0})["steps"]:
                add(name, left.result | {"shared": shared})
            print(f"{name}: {left}; the same command goes on from there")
            sys.exit(left.stop.status)
        result["shared"] = shared or (name in RUNS and result["seconds"] is None)
        add(name, result)
        if name in RUNS:
            nats = result["curve"][-1]["train_nats"]
            took = "" if result["seconds"] is None else f" in {result['seconds']:,} s"
            print(
                f"{name}: {result['steps']:,} steps{took}; training "
                f"{nats:.4f} nats ({nats / math.log(2):.4f} bits) per character",
                flush=True,
            )
        shutil.rmtree(KEPT / name, ignore_errors=True)


def read() -> dict[str, Any]:
    """Return what is recorded: `spreads` and `runs`."""
    return read_json(OUTPUT) if OUTPUT.is_file() else {"spreads": {}, "runs": {}}


def finished() -> set[str]:
    """Return the names of what is recorded whole."""
    recorded = read()
    runs = {name for name, run in recorded["runs"].items() if not run.get("unfinished")}
    return runs | set(recorded["spreads"])


def add(name: str, result: dict[str, Any]) -> None:
    """Write a result to benchmarks/published.json, in the order of the lists above."""
    # Read now and not before the training: another process may have added one meanwhile.
    recorded = read()
    recorded["spreads" if name in SPREADS else "runs"][name] = result
    content: dict[str, Any] = {"command": "python -m benchmarks.published"}
    for part, known in (("spreads", SPREADS), ("runs", RUNS)):
        content[part] = {key: recorded[part][key] for key in known if key in recorded[part]}
    write_json(OUTPUT, content)


if __name__ == "__main__":
    main()
