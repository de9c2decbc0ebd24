"""How low the loss gets, on two CPU cores or on a GPU, and how fast.

    python -m benchmarks.lowest [BUDGET ...] [SEED ...] [--shared] [--keep FOLDER] [--train]

adds to benchmarks/lowest.json; on a CUDA device, or with `full`, to benchmarks/lowest_gpu.json.
Three seeds of each of these, alone; with `kneser_ney` in a mixture whose two weights are found on
validation; and that mixture while it learns from what it has been scored on:

- `quick`: `lstm` of params.yaml at its quick budget;
- `five minutes`: the same with the changes in BUDGETS;
- `full`: `lstm` at its full budget, on a CUDA device.

Choices follow validation (CHANGELOG says what else was in view); test is scored once a seed.
Streaming. Nothing else should run meanwhile: it takes an hour on two cores. Where something did,
say --shared: seconds are then no measure of speed, and are left out. With --keep weights stay in a
folder, and are trained only where it has none; with --train nothing is scored, so that a GPU need
not wait for counting. A seed that is recorded already is not run again; remove the file to begin
afresh.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stages  # puts this copy's src first
from benchmarks.machine import machine
from benchmarks.sources import at_scale, train
from charlm import adaptive, checkpoint, encoding, evaluation, mixing, params
from charlm.checkpoint import Config
from charlm.files import read_json, write_json, write_text
from charlm.models.base import CountingModel, LanguageModel, start_torch
from charlm.vocabulary import Vocabulary
from stages.mix import together

ROOT = Path(stages.__file__).parent.parent
ENCODED = ROOT / "data/encoded"
SEEDS = (1, 2, 3)
LONGER = {"hidden": 512, "steps": 3300, "dropout": 0.2, "input_dropout": 0.1, "learning_rate": 4e-3}
BUDGETS: dict[str, params.Params] = {
    "quick": at_scale("quick"),
    "five minutes": at_scale(
        "quick", **{f"models__lstm__quick__{key}": value for key, value in LONGER.items()}
    ),
    "full": at_scale("full"),
}

Leaf = dict[str, float]


def losses(nats: torch.Tensor, first: int) -> Leaf:
    """Return nats per character of validation, test and both."""
    parts = {"validation": nats[:first], "test": nats[first:], "holdout": nats}
    return {part: round(float(of.mean()), 5) for part, of in parts.items()}


def counted(settings: params.Params, symbols: str, train_N: torch.Tensor) -> Any:
    """Return `kneser_ney`, fitted, and its configuration."""
    entry = settings.counts("kneser_ney")
    config = Config(entry.model, entry.block, "train", symbols, entry.architecture, {}, {})
    model = config.build()
    assert isinstance(model, CountingModel)
    model.fit(train_N)
    return model.eval(), config


@dataclass(frozen=True)
class Trained:
    """A model and what its training took."""

    model: LanguageModel
    config: Config
    steps: int
    seconds: float
    machine: str


def trained(budget: str, seed: int, folder: Path | None) -> Trained:
    """Train once, or load what a folder keeps."""
    device = start_torch()
    kept = folder / f"{budget.replace(' ', '-')}-{seed}" if folder else None
    if kept and (kept / "training.json").is_file():
        model, config = checkpoint.load(kept, device)
        return Trained(model, config, **read_json(kept / "training.json"))
    seeds = params.Seeds(initialisation=10 * seed + 1, training=10 * seed + 2, sampling=3)
    model, config, curve, seconds = train(BUDGETS[budget].model("lstm"), seeds, device)
    found = Trained(model, config, int(curve[-1]["step"]), round(seconds, 1), machine(device))
    if kept:
        checkpoint.save(kept, model, config)
        write_text(kept / "curve.json", json.dumps(curve))
        known = {"steps": found.steps, "seconds": found.seconds, "machine": found.machine}
        write_json(kept / "training.json", known)
    return found


def measure(
    budget: str, seed: int, splits: dict[str, torch.Tensor], shared: bool, folder: Path | None
) -> dict[str, Any]:
    """Train once and score it alone, in a mixture, and in one that learns."""
    device, settings = start_torch(), BUDGETS[budget]
    run = trained(budget, seed, folder)
    past, first = splits["train"].to(device), len(splits["validation"])
    held = torch.cat([splits["validation"], splits["test"]]).to(device)
    ids = torch.cat([past[-1:], held])

    symbols = Vocabulary.load(ENCODED / "vocabulary.json").symbols
    members: list[tuple[LanguageModel, Config]] = [
        (run.model, run.config),
        counted(settings, symbols, splits["train"]),
    ]
    seen = ids[: first + 1]
    log_p_KNV = np.stack([evaluation.log_probabilities(of, seen).numpy() for of, _ in members])
    fit = mixing.fit(log_p_KNV, splits["validation"].numpy().astype(np.int64))
    entry = settings.mixed("mixture")
    mixture, _ = together(entry, members, fit.best, fit.ways[fit.best][0])
    mixture = mixture.to(device).eval()
    found = {
        "steps": run.steps,
        "trained_on": run.machine,
        "threads": torch.get_num_threads(),
        "training_seconds": None if shared else run.seconds,
        "parameters": run.model.parameter_count,
        "lstm": losses(evaluation.streaming(run.model, ids)[0], first),
        "lstm_windowed_at_256": losses(evaluation.windowed(run.model, ids, 256)[0], first),
        "mixture": losses(evaluation.streaming(mixture, ids)[0], first),
    }
    started = time.perf_counter()
    nats, _ = adaptive.adaptive(mixture, past, held, settings.adapts("mixture"))
    found["mixture_adaptive"] = losses(nats, first)
    found["adaptive_seconds"] = None if shared else round(time.perf_counter() - started, 1)
    return found


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, for each budget, mean and standard deviation over seeds."""
    rows: dict[str, Any] = {}
    for budget in BUDGETS:
        runs = [run for key, run in results.items() if key.startswith(budget)]
        for what in ("lstm", "lstm_windowed_at_256", "mixture", "mixture_adaptive"):
            for part in ("validation", "test", "holdout"):
                values = [run[what][part] for run in runs]
                if len(values) > 1:
                    rows.setdefault(budget, {}).setdefault(what, {})[part] = {
                        "mean": round(statistics.mean(values), 4),
                        "sd": round(statistics.stdev(values), 4),
                    }
    return rows


def main(words: list[str]) -> None:
    """Run what is not recorded yet, one after the other."""
    shared, only_train = "--shared" in words, "--train" in words
    folder = Path(words[words.index("--keep") + 1]) if "--keep" in words else None
    budgets = [word for word in words if word in BUDGETS]
    seeds = [int(word) for word in words if word.isdecimal()] or SEEDS
    device = start_torch()
    on_gpu = device.type == "cuda" or "full" in budgets
    output = ROOT / ("benchmarks/lowest_gpu.json" if on_gpu else "benchmarks/lowest.json")
    results: dict[str, dict[str, Any]] = read_json(output)["results"] if output.is_file() else {}
    splits = {split: torch.tensor(encoding.load_split(ENCODED, split)) for split in encoding.SPLITS}
    for seed in seeds:
        for budget in budgets or (["full"] if on_gpu else ["quick", "five minutes"]):
            key = f"{budget}, seed {seed}"
            if key in results:
                continue
            if only_train:
                print(key, trained(budget, seed, folder).seconds, "s", flush=True)
                continue
            results[key] = measure(budget, seed, splits, shared, folder)
            print(key, results[key], flush=True)
            write_json(
                output,
                {
                    "command": "python -m benchmarks.lowest" + (" full" if on_gpu else ""),
                    "machine": machine(device),
                    "unit": "nats per character, streaming unless windowed is said",
                    "summary": summary(results),
                    "results": results,
                },
            )


if __name__ == "__main__":
    main(sys.argv[1:])
