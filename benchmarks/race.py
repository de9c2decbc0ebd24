"""A race to a published loss: `python -m benchmarks.race` writes benchmarks/race.json.

How long do nanoGPT's recipe and our `lstm` train until their loss on the holdout, in windows of
fresh context, is the published one? On a CPU that is nanoGPT's CPU recipe and 1.8857, windowed at
64; on a CUDA device its GPU recipe and 1.4697, windowed at 256, into benchmarks/race_gpu.json. Both
run here, one after the other, by the same loop, which stops the clock while it evaluates every
target once. The recipe is `gpt` at scale quick or full; it may end above the mark, and its
time is then a lower bound. Ours is the architecture of `lstm` with a short training: on a CPU the
first one tried, on a GPU chosen on validation. On a GPU it runs with three seeds.
"""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from benchmarks.common import at_scale, build, load
from benchmarks.machine import machine
from charlm.config import params
from charlm.evaluation import loss
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.training.trainer import Point, Trainer

ROOT = Path(stages.__file__).parent.parent


@dataclass(frozen=True)
class Race:
    """What is to be reached, and by whom."""

    output: str
    scale: str
    mark: float
    block: int
    sizes: dict[str, Any]
    training: dict[str, Any]
    every: int
    seeds: tuple[int, ...]


BARE = {"layers": 1, "layer_dropout": 0.0, "weight_dropout": 0.0}
CPU = Race(
    "race.json",
    "quick",
    1.8857,
    64,
    BARE | {"embedding": 64, "hidden": 384, "dropout": 0.0, "input_dropout": 0.0},
    {"batches": "windows", "batch": 16, "block": 64, "steps": 900, "learning_rate": 6e-3}
    | {"warmup": 20, "weight_decay": 0.01},
    25,
    (1,),
)
GPU = Race(
    "race_gpu.json",
    "full",
    1.4697,
    256,
    BARE | {"embedding": 128, "hidden": 1024, "dropout": 0.3, "input_dropout": 0.1},
    {"batch": 64, "block": 64, "steps": 1200, "learning_rate": 4e-3, "label_smoothing": 0.0},
    100,
    (1, 2, 3),
)


def measure(
    race: Race, run: params.Run, every: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """Train to the last step, and find when the mark was reached."""
    ids = load(device)
    held = torch.cat([ids["train"][-1:], ids["validation"], ids["test"]])
    plan = run.training.model_copy(update={"validate_every": every})
    model, _ = build(run.model_copy(update={"seed": seed}), device)
    clock = {"trained": 0.0, "since": time.perf_counter()}
    curve: list[tuple[int, float, float]] = []

    def on_point(at: Point) -> None:
        clock["trained"] += time.perf_counter() - clock["since"]
        model.eval()
        nats, _ = loss.windowed(model, held, race.block)
        model.train()
        curve.append((at.step, round(clock["trained"], 2), round(float(nats.mean()), 4)))
        clock["since"] = time.perf_counter()

    some_N = ids["validation"][: race.block * 8]
    Trainer(model, ids["train"], some_N, plan, seed + 1).fit(on_point)
    reached = [row for row in curve if row[2] <= race.mark]
    step, seconds, nats = reached[0] if reached else curve[-1]
    return {
        "reached": bool(reached),
        "steps": step,
        "seconds": seconds,
        "holdout_nats_windowed": nats,
        "at_the_end": curve[-1],
        "milliseconds_per_step": round(1000 * curve[-1][1] / curve[-1][0], 1),
        "curve": curve,
    }


def main() -> None:
    """Race and write all runs and the ratio."""
    device = start_torch(os.cpu_count() or 1)
    race = GPU if device.type == "cuda" else CPU
    settings = at_scale(race.scale)
    ours = settings.run("lstm")
    short = ours.model_copy(
        update={
            "training": ours.training.model_copy(update=race.training),
            "architecture": ours.architecture | race.sizes,
        }
    )
    results = {
        f"lstm, seed {seed}": measure(race, short, race.every, seed, device) for seed in race.seeds
    }
    mine = statistics.fmean(found["seconds"] for found in results.values())
    results["gpt"] = measure(race, settings.run("gpt"), 250, 1, device)
    record = {
        "command": "python -m benchmarks.race",
        "machine": machine(device),
        "mark": race.mark,
        "windowed_at": race.block,
        "times_faster": round(results["gpt"]["seconds"] / mine, 1),
        "results": results,
    }
    write_json(ROOT / "benchmarks" / race.output, record)
    for name, found in results.items():
        print(name, {key: value for key, value in found.items() if key != "curve"})
    print(f"{record['times_faster']} times faster")


if __name__ == "__main__":
    main()
