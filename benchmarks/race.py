"""Races to published losses: `python -m benchmarks.race` writes benchmarks/race.json.

How long does a model of ours train until its loss on the holdout, in windows of fresh context, is
the published one of nanoGPT's, and how long does nanoGPT's recipe? Counting is training too.

- `lstm` to 1.8857, windowed at 64: nanoGPT's CPU recipe. The first configuration that was tried.
- `ngram_lstm` to 1.4697, windowed at 256: nanoGPT's GPU recipe. Chosen on validation.

On a CPU both race against nanoGPT's CPU recipe, `gpt` at scale quick, which may end above the mark:
its time is then a lower bound. On a CUDA device, `lstm` races to 1.4697 against the GPU recipe,
`gpt` at scale full, with three seeds, into benchmarks/race_gpu.json. All run here, one after the
other, by the same loop, which stops the clock while it evaluates every target once.
"""

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import GPU_SCALE, ON_GPU, RECORDS, at_scale, build, load
from benchmarks.machine import machine
from charlm.cli import script
from charlm.config import params
from charlm.evaluation import loss
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.training.trainer import Point, Trainer

OUTPUT = "race_gpu.json" if ON_GPU else "race.json"


@dataclass(frozen=True)
class Race:
    """What is to be reached, and by whom."""

    entry: str
    mark: float
    block: int
    sizes: dict[str, Any]
    training: dict[str, Any]
    every: int
    seeds: tuple[int, ...] = (1,)


BARE = {"layers": 1, "layer_dropout": 0.0, "weight_dropout": 0.0}
CPU = (
    Race(
        "lstm",
        1.8857,
        64,
        BARE | {"embedding": 64, "hidden": 384, "dropout": 0.0, "input_dropout": 0.0},
        {"batches": "windows", "batch": 16, "block": 64, "steps": 900, "learning_rate": 6e-3}
        | {"warmup": 20, "weight_decay": 0.01},
        25,
    ),
    Race(
        "ngram_lstm",
        1.4697,
        256,
        {"hidden": 128, "folds": 3},
        {"steps": 200, "warmup": 10},
        25,
        (1, 2, 3),
    ),
)
GPU = (
    Race(
        "lstm",
        1.4697,
        256,
        BARE | {"embedding": 128, "hidden": 1024, "dropout": 0.3, "input_dropout": 0.1},
        {"batch": 64, "block": 64, "steps": 1200, "learning_rate": 4e-3, "label_smoothing": 0.0},
        100,
        (1, 2, 3),
    ),
)


def measure(
    run: params.Run, mark: float, block: int, every: int, device: torch.device
) -> dict[str, Any]:
    """Train to the last step, and find when a loss was reached.

    Args:
        run: what to train.
        mark: the loss, in nats per character of the holdout.
        block: characters of the windows in which it is measured.
        every: steps between two measurements.
        device: to train on.
    """
    ids = load(device)
    held = torch.cat([ids["train"][-1:], ids["validation"], ids["test"]])
    plan = run.training.model_copy(update={"validate_every": every})
    model, _ = build(run, device)
    clock = {"trained": 0.0, "since": time.perf_counter()}
    curve: list[tuple[int, float, float]] = []
    features_NKV = model.prepare(ids["train"])
    counting = time.perf_counter() - clock["since"]

    def on_point(at: Point) -> None:
        # The first point comes when some steps are taken already.
        if not at.step:
            return
        clock["trained"] += time.perf_counter() - clock["since"]
        model.eval()
        nats, _ = loss.windowed(model, held, block)
        model.train()
        curve.append((at.step, round(clock["trained"], 2), round(float(nats.mean()), 4)))
        clock["since"] = time.perf_counter()

    some_N = ids["validation"][: block * 8]
    trainer = Trainer(model, ids["train"], some_N, plan, run.seed + 1, features_NKV=features_NKV)
    trainer.fit(on_point)
    reached = [row for row in curve if row[2] <= mark]
    step, seconds, nats = reached[0] if reached else curve[-1]
    return {
        "reached": bool(reached),
        "steps": step,
        "seconds": seconds,
        "of_them_counting": round(counting, 2),
        "holdout_nats_windowed": nats,
        "at_the_end": curve[-1],
        "curve": curve,
    }


@script(__doc__)
def main() -> None:
    """Race and write all runs and the ratios."""
    device = start_torch(os.cpu_count() or 1)
    settings = at_scale(GPU_SCALE if ON_GPU else "quick")
    races: dict[str, Any] = {}
    theirs = None
    for race in GPU if ON_GPU else CPU:
        # On a CPU it is above both marks from the first step to the last: one training is enough.
        theirs = theirs or measure(settings.run("gpt"), race.mark, race.block, 250, device)
        assert ON_GPU or not theirs["reached"]
        ours = settings.run(race.entry)
        short = ours.model_copy(
            update={
                "training": ours.training.model_copy(update=race.training),
                "architecture": ours.architecture | race.sizes,
            }
        )
        if settings.scale == "smoke":
            short = ours
        results = {
            f"seed {seed}": measure(
                short.model_copy(update={"seed": seed}), race.mark, race.block, race.every, device
            )
            for seed in race.seeds
        }
        mine = statistics.fmean(found["seconds"] for found in results.values())
        races[f"{race.entry} to {race.mark}"] = {
            "mark": race.mark,
            "windowed_at": race.block,
            "seconds": round(mine, 2),
            "times_faster": round(theirs["seconds"] / mine, 1),
            "results": results,
        }
        print(f"{race.entry} to {race.mark}: {mine:.1f} s, {theirs['seconds'] / mine:.1f} times")
        for seed, found in results.items():
            print(seed, {key: value for key, value in found.items() if key != "curve"}, flush=True)
    record = {"command": "python -m benchmarks.race", "machine": machine(device)}
    write_json(RECORDS / OUTPUT, record | {"gpt": theirs, "races": races})


if __name__ == "__main__":
    main()
