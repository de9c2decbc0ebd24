"""A race on two cores: `python -m benchmarks.race` writes benchmarks/race.json.

How long do nanoGPT's CPU recipe and our `lstm` train until their loss on the holdout, windowed at
64, is nanoGPT's 1.8857? Both run here, one after the other, by the same loop, which stops the clock
while it evaluates every target once. The recipe is `gpt` at its quick budget; it may end above the
mark, and its time is then a lower bound. Ours is the architecture of `lstm` with windows of 64 and
a short budget, the first one tried.
"""

import time
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from benchmarks.machine import machine
from benchmarks.sources import at_scale, load
from charlm import evaluation, params, training
from charlm.checkpoint import Config
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.vocabulary import Vocabulary

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/race.json"
MARK, BLOCK = 1.8857, 64

LSTM = {
    "batches": "windows",
    "batch": 16,
    "block": BLOCK,
    "steps": 900,
    "learning_rate": 6e-3,
    "warmup": 20,
}


def run(entry: params.Trained, every: int, device: torch.device) -> dict[str, Any]:
    """Train until the mark is reached or the budget ends."""
    ids = load(device)
    held = torch.cat([ids["train"][-1:], ids["validation"], ids["test"]])
    budget = entry.training.model_copy(update={"validate_every": every})
    symbols = Vocabulary.load(ROOT / "data/encoded/vocabulary.json").symbols
    seeds = params.Seeds(initialisation=1, training=2, sampling=3)
    torch.manual_seed(seeds.initialisation)
    model = Config.of(entry, symbols, seeds).build().to(device)
    clock = {"trained": 0.0, "since": time.perf_counter()}
    curve: list[tuple[int, float, float]] = []

    def point(at: training.Point) -> None:
        clock["trained"] += time.perf_counter() - clock["since"]
        model.eval()
        nats, _ = evaluation.windowed(model, held, BLOCK)
        model.train()
        curve.append((at.step, round(clock["trained"], 2), round(float(nats.mean()), 4)))
        clock["since"] = time.perf_counter()

    training.fit(model, ids["train"], ids["validation"][: BLOCK * 8], budget, seeds.training, point)
    reached = [row for row in curve if row[2] <= MARK]
    step, seconds, nats = reached[0] if reached else curve[-1]
    return {
        "reached": bool(reached),
        "steps": step,
        "seconds": seconds,
        "holdout_nats_windowed_at_64": nats,
        "milliseconds_a_step": round(1000 * curve[-1][1] / curve[-1][0], 1),
        "curve": curve,
    }


def main() -> None:
    """Race and write both and the ratio."""
    device = start_torch()
    settings = at_scale("quick")
    ours = settings.model("lstm")
    short = ours.training.model_copy(update=LSTM)
    results = {
        "lstm": run(ours.model_copy(update={"training": short}), 25, device),
        "gpt": run(settings.model("gpt"), 250, device),
    }
    record = {
        "command": "python -m benchmarks.race",
        "machine": machine(device),
        "mark": MARK,
        "times_faster": round(results["gpt"]["seconds"] / results["lstm"]["seconds"], 1),
        "results": results,
    }
    write_json(OUTPUT, record)
    for name, found in results.items():
        print(name, {key: value for key, value in found.items() if key != "curve"})
    print(f"{record['times_faster']} times faster")


if __name__ == "__main__":
    main()
