"""How low two cores get, and how fast.

    python -m benchmarks.lowest [--shared] [SEED ...]        adds to benchmarks/lowest.json

`lstm` of params.yaml at its quick and its full budget, with three seeds each; with `kneser_ney` in
a mixture whose two weights are found on validation; and that mixture while it learns from what it
has been scored on. All choices were made on validation; test and holdout are scored once a seed.
Streaming. Nothing else should run meanwhile: it takes half an hour on two cores. Where something
did, say --shared: seconds are then no measure of speed, and are left out. A seed that is recorded
already is not run again; remove the file to begin afresh.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stages  # puts this copy's src first
from benchmarks.machine import machine
from benchmarks.sources import at_scale, train
from charlm import adaptive, encoding, evaluation, mixing, params
from charlm.checkpoint import Config
from charlm.files import read_json, write_json
from charlm.models.base import CountingModel, LanguageModel, start_torch
from charlm.vocabulary import Vocabulary
from stages.mix import together

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/lowest.json"
ENCODED = ROOT / "data/encoded"
BUDGETS, SEEDS = ("quick", "full"), (1, 2, 3)

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


def measure(
    budget: str, seed: int, splits: dict[str, torch.Tensor], shared: bool
) -> dict[str, Any]:
    """Train once and score it alone, in a mixture, and in one that learns."""
    device = start_torch()
    settings = at_scale(budget)
    seeds = params.Seeds(initialisation=10 * seed + 1, training=10 * seed + 2, sampling=3)
    model, config, curve, seconds = train(settings.model("lstm"), seeds, device)
    past, first = splits["train"].to(device), len(splits["validation"])
    held = torch.cat([splits["validation"], splits["test"]]).to(device)
    ids = torch.cat([past[-1:], held])

    symbols = Vocabulary.load(ENCODED / "vocabulary.json").symbols
    members: list[tuple[LanguageModel, Config]] = [
        (model, config),
        counted(settings, symbols, splits["train"]),
    ]
    seen = ids[: first + 1]
    log_p_KNV = np.stack([evaluation.log_probabilities(of, seen).numpy() for of, _ in members])
    fit = mixing.fit(log_p_KNV, splits["validation"].numpy().astype(np.int64))
    entry = settings.mixed("mixture")
    mixture, _ = together(entry, members, fit.best, fit.ways[fit.best][0])
    mixture = mixture.to(device).eval()
    found = {
        "steps": curve[-1]["step"],
        "threads": torch.get_num_threads(),
        "training_seconds": None if shared else round(seconds, 1),
        "lstm": losses(evaluation.streaming(model, ids)[0], first),
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
        for what in ("lstm", "mixture", "mixture_adaptive"):
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
    shared = "--shared" in words
    seeds = [int(word) for word in words if word.isdecimal()] or SEEDS
    results: dict[str, dict[str, Any]] = read_json(OUTPUT)["results"] if OUTPUT.is_file() else {}
    splits = {split: torch.tensor(encoding.load_split(ENCODED, split)) for split in encoding.SPLITS}
    for seed in seeds:
        for budget in BUDGETS:
            key = f"{budget}, seed {seed}"
            if key in results:
                continue
            results[key] = measure(budget, seed, splits, shared)
            print(key, results[key], flush=True)
            write_json(
                OUTPUT,
                {
                    "command": "python -m benchmarks.lowest",
                    "machine": machine(start_torch()),
                    "unit": "nats per character, streaming",
                    "summary": summary(results),
                    "results": results,
                },
            )


if __name__ == "__main__":
    main(sys.argv[1:])
