"""How low the loss gets, on two CPU cores or on a GPU, and how fast.

    python -m benchmarks.lowest [PLAN ...] [SEED ...] [--threads N] [--shared] [--keep FOLDER]

adds to benchmarks/lowest.json; on a CUDA device, or with `full`, to benchmarks/lowest_gpu.json.
Three seeds of each of these plans: both members of the ensemble `mixture` of params.yaml, alone;
the ensemble, whose two weights are fitted on validation; and its dynamic evaluation, with context
mixing and without it:

- `quick`: scale quick of params.yaml;
- `five minutes`: the same with the changes in LONGER, five minutes per member;
- `full`: scale full, on a CUDA device.

Choices follow validation (docs/results.md says what else was in view). Test is scored once per
seed. Nothing else should run meanwhile: it takes an hour on two cores, and uses all of them unless
--threads says otherwise. Where something did, say --shared: seconds are then no measure of speed,
and are left out. With --keep weights stay in a folder, are trained only where it has none of the
same configuration, and a training that was stopped goes on. A seed that is recorded already is not
run again; remove the file to begin afresh.
"""

import copy
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import ENCODED, GPU_SCALE, ON_GPU, RECORDS, at_scale, train
from benchmarks.machine import machine
from charlm import saved_model
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.evaluation import dynamic, ensemble, loss
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel, start_torch
from charlm.saved_model import Config
from charlm.training import checkpoint

SEEDS = (1, 2, 3)
LONGER: dict[str, dict[str, Any]] = {
    "models__lstm__quick": {
        "hidden": 512,
        "steps": 3300,
        "learning_rate": 4e-3,
        "dropout": 0.2,
        "input_dropout": 0.1,
    },
    "models__ngram_lstm__quick": {
        "folds": 50,
        "steps": 5800,
        "dropout": 0.3,
        "input_dropout": 0.15,
    },
    "models__ngram_lstm__training": {"batch": 22, "block": 96},
    "dynamic__mixture": {"every": 20, "learning_rate": 1.3e-3},
}
PLANS: dict[str, params.Params] = {
    "quick": at_scale("quick"),
    "five minutes": at_scale(
        "quick",
        **{
            f"{section}__{key}": value
            for section, changes in LONGER.items()
            for key, value in changes.items()
        },
    ),
    "full": at_scale(GPU_SCALE),
}
WINDOW = 256
"""Characters of the published windowed losses."""

Leaf = dict[str, float]


def losses(nats: torch.Tensor, first: int) -> Leaf:
    """Return nats per character of validation, test and both."""
    parts = {"validation": nats[:first], "test": nats[first:], "holdout": nats}
    return {name: round(float(part.mean()), 5) for name, part in parts.items()}


@dataclass(frozen=True)
class Trained:
    """A model and what its training took."""

    model: LanguageModel
    config: Config
    steps: int
    seconds: float | None
    machine: str


def trained(plan: str, name: str, seed: int, folder: Path | None) -> Trained:
    """Train once, or load what a folder keeps."""
    device = start_torch(torch.get_num_threads())
    kept = folder / f"{plan.replace(' ', '-')}-{name}-{seed}" if folder else None
    run = PLANS[plan].run(name).model_copy(update={"seed": 10 * seed + 1})
    configuration = run.model_dump(mode="json")
    if kept and (kept / "training.json").is_file():
        known = read_json(kept / "training.json")
        if known.pop("run", None) == configuration:
            model, config = saved_model.load(kept, device)
            return Trained(model, config, **known)
    model, config, curve, seconds = train(run, device, kept=kept)
    seconds = None if seconds is None else round(seconds, 1)
    found = Trained(model, config, int(curve[-1]["step"]), seconds, machine(device))
    if kept:
        saved_model.save(kept, model, config)
        known = {"steps": found.steps, "seconds": found.seconds, "machine": found.machine}
        write_json(kept / "training.json", {"run": configuration, **known})
    return found


def measure(
    plan: str, seed: int, splits: dict[str, torch.Tensor], shared: bool, folder: Path | None
) -> dict[str, Any]:
    """Train both members once; score each alone, the ensemble, and its dynamic evaluation."""
    device, settings = start_torch(torch.get_num_threads()), PLANS[plan]
    entry = settings.ensemble("mixture")
    runs = {name: trained(plan, name, seed, folder) for name in entry.members}
    past, first = splits["train"].to(device), len(splits["validation"])
    held = torch.cat([splits["validation"], splits["test"]]).to(device)
    ids = torch.cat([past[-1:], held])

    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name, run in runs.items():
        found[name] = {
            "steps": run.steps,
            "trained_on": run.machine,
            "training_seconds": None if shared else run.seconds,
            "parameters": run.model.parameter_count,
            "streaming": losses(loss.streaming(run.model, ids)[0], first),
            f"windowed_at_{WINDOW}": losses(loss.windowed(run.model, ids, WINDOW)[0], first),
        }
    members = [(run.model, run.config) for run in runs.values()]
    validation = splits["validation"].numpy()
    shape = len(members), len(held), len(members[0][1].symbols)
    rows_KNV = torch.empty(shape, dtype=torch.float16)
    for (member, _), rows_NV in zip(members, rows_KNV, strict=True):
        loss.streaming(member, ids, rows_RV=rows_NV)
    mixture, config, _ = ensemble.build(entry, members, rows_KNV[:, :first].numpy(), validation)
    mixture = mixture.to(device)
    found["mixture"] = {"streaming": losses(loss.streaming(mixture, ids)[0], first)}
    how = settings.learner("mixture")
    for way, learner in {
        "dynamic": how,
        "dynamic_without_contexts": how.model_copy(update={"context_rate": 0.0}),
    }.items():
        started = time.perf_counter()
        # Dynamic evaluation changes the weights.
        nats, _ = dynamic.scores(copy.deepcopy(mixture), past, held, learner, config.symbols)
        seconds = None if shared else round(time.perf_counter() - started, 1)
        found["mixture"] |= {way: losses(nats, first), f"{way}_seconds": seconds}
    return found


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, for each plan, model and way of scoring, mean and standard deviation over seeds."""
    rows: dict[str, Any] = {}
    for plan in PLANS:
        runs = [run for key, run in results.items() if key.startswith(plan)]
        if len(runs) < 2:
            continue
        rows[plan] = {
            name: {
                way: {
                    part: {
                        "mean": round(statistics.mean(values), 4),
                        "sd": round(statistics.stdev(values), 4),
                    }
                    for part in ("validation", "test", "holdout")
                    for values in [[run[name][way][part] for run in runs]]
                }
                for way, found in model.items()
                if isinstance(found, dict)
            }
            for name, model in runs[0].items()
            if isinstance(model, dict)
        }
    return rows


@click.command()
@click.option("--threads", default=os.cpu_count() or 1, type=click.IntRange(min=1))
@click.option("--shared", is_flag=True, help="Something else runs beside it.")
@click.option("--keep", "folder", type=click.Path(path_type=Path), help="For trained models.")
@click.argument("words", nargs=-1, type=click.Choice([*PLANS, *map(str, SEEDS)]))
@one_line_errors
def main(threads: int, shared: bool, folder: Path | None, words: tuple[str, ...]) -> None:
    """Run what is not recorded yet, one after the other."""
    plans = [word for word in words if word in PLANS]
    seeds = [int(word) for word in words if word not in PLANS] or SEEDS
    device = start_torch(threads)
    on_gpu = ON_GPU or "full" in plans
    output = RECORDS / ("lowest_gpu.json" if on_gpu else "lowest.json")
    results: dict[str, dict[str, Any]] = read_json(output)["results"] if output.is_file() else {}
    splits = {split: torch.tensor(encoding.load_split(ENCODED, split)) for split in encoding.SPLITS}
    for seed in seeds:
        for plan in plans or (["full"] if on_gpu else ["quick", "five minutes"]):
            key = f"{plan}, seed {seed}"
            if key in results:
                continue
            results[key] = measure(plan, seed, splits, shared, folder)
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
    try:
        main()
    except checkpoint.Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
        sys.exit(stop.status)
