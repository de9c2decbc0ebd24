"""Runs that the table of sources needs and that are too long for the pipeline, recorded.

    python -m benchmarks.sources [--shared] [RUN ...]        adds to benchmarks/sources.json

`make sources-long` runs what is not recorded yet.

- `spread`: how much the losses that documents C and D print vary from seed to seed and batch to
  batch: the tolerance of their rows.
- `starts`: the same of LMNet's first loss, by width.
- `shake_lstm`: document A's ShakeLSTM at its published 20 epochs of 100 batches, with its own
  validation on 10 random batches.
- `lmnet_N`: document B's LMNet, N wide, to step 500, where the published curve tells widths apart.
- `rnn`, `lstm_scratch`: document E's two, at the steps that its own corpus gave them.
- `published_lmnet`, `published_rnn`, `published_lstm_scratch`: the documents' whole budgets of
  10,000, 26,100 and 52,200 steps. They are for a GPU, and left out elsewhere unless named.

A run that is recorded already is not run again unless it is named. Each is written as soon as it
ends, so that stopping loses no more than the one that runs. It needs data/encoded (`dvc repro
encode`) and hours: the machine's threads are used, so nothing else should run beside it. Where
something did, or a run was paused, say --shared: its seconds are then no measure of speed.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn import functional

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm import models, sampling
from charlm.cli import progress
from charlm.config import params
from charlm.data import batches, encoding
from charlm.data.vocabulary import Vocabulary
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel, ResidualModel, start_torch
from charlm.saved_model import Config
from charlm.training import trainer
from stages.evaluate import score

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/sources.json"
ENCODED = ROOT / "data/encoded"
SPREAD = ("perceptron_full_batch_all", "perceptron_all", "mlp_all", "mlp_normalized_all", "bigram")
SPREAD_SEEDS = range(101, 111)
WIDTHS = (64, 128, 256, 512)

Watch = Callable[[LanguageModel, trainer.Point], dict[str, float]]


def at_scale(scale: str, **changes: Any) -> params.Params:
    """Return params.yaml at a scale; models__rnn__full__steps=1 changes models.rnn.full.steps."""
    content = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return params.parse({**content, "scale": scale}, "params.yaml")


def train(
    entry: params.Trained,
    seeds: params.Seeds,
    device: torch.device,
    watch: Watch = lambda model, point: {},
) -> tuple[LanguageModel, Config, list[dict[str, float]], float]:
    """Train an entry; return it, its configuration, its curve and the seconds.

    Args:
        entry: what to train.
        seeds: of the first weights and the batches.
        device: to train on.
        watch: called with the model at each point of the curve; adds columns to it.
    """
    budget = entry.training
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    config = Config.of(entry, vocabulary.symbols, seeds)
    torch.manual_seed(seeds.initialisation)
    model = config.build().to(device)
    ids = load(device)
    seen_N = torch.cat(list(ids.values())) if entry.trained_on == "all" else ids["train"]
    curve: list[dict[str, float]] = []

    def point(at: trainer.Point) -> None:
        row = {
            "step": at.step,
            "train_nats": at.train_nats,
            "batch_nats": at.batch_nats,
            "validation_nats": at.validation_nats,
        }
        curve.append(row | watch(model, at))

    steps = budget.steps_on(len(seen_N))
    started = time.perf_counter()
    with progress(steps, "step", entry.name) as bar:

        def advance(count: int, nats: float) -> None:
            bar.set_postfix_str(f"{nats:.3f} nats", refresh=False)
            bar.update(count)

        trainer.fit(
            model,
            seen_N,
            ids["validation"],
            budget,
            seeds.training,
            point,
            advance,
            expected_NKV=model.study(seen_N) if isinstance(model, ResidualModel) else None,
        )
    return model, config, curve, time.perf_counter() - started


def load(device: torch.device) -> dict[str, Tensor]:
    """Return the ids of each split on a device."""
    return {
        split: torch.tensor(encoding.load_split(ENCODED, split)).to(device)
        for split in encoding.SPLITS
    }


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
            inputs_BT, targets_BT, _ = next(stream)
            logits_BTV, _ = model(inputs_BT)
            nats = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
            losses.append(float(nats))
    model.train(was_training)
    return losses


def record(
    entry: params.Trained, settings: params.Params, watch: Watch = lambda model, point: {}
) -> dict[str, Any]:
    """Train one entry at a budget, score it and draw its sample."""
    device = start_torch()
    model, config, curve, seconds = train(entry, settings.seeds, device, watch)
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}
    steps = int(curve[-1]["step"])
    return {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "entry": entry.name,
        "trained_on": entry.trained_on,
        "architecture": entry.architecture,
        "batch": entry.training.batch,
        "block": entry.training.block,
        "steps": steps,
        "parameters": model.parameter_count,
        "seconds": round(seconds),
        "curve": curve,
        "losses": score(entry.name, model, config, splits, device),
        "sample": sample(model, config, entry, settings.seeds.sampling, device),
    }


def sample(
    model: LanguageModel,
    config: Config,
    entry: params.Trained,
    seed: int,
    device: torch.device,
) -> str:
    """Return one text drawn as the entry's own settings say."""
    vocabulary = config.vocabulary
    prompt = entry.sampling.prompt or vocabulary.symbols[0]
    prompt_T = torch.tensor(vocabulary.encode(prompt)).long().to(device)
    one = entry.sampling.model_copy(update={"samples": 1})
    drawn = sampling.draw_as(one, model, config.block, prompt_T, seed)
    return prompt + vocabulary.decode([int(id_B) for id_B in drawn])


def spread() -> dict[str, Any]:
    """Train documents C's and D's models with other seeds; record what their documents print."""
    settings, device = at_scale("quick"), start_torch()
    losses: dict[str, dict[str, list[float]]] = {}
    for name in SPREAD:
        entry = settings.model(name)
        for seed in SPREAD_SEEDS:
            seeds = settings.seeds.model_copy(
                update={"initialisation": seed, "training": seed + 1000}
            )
            _, _, curve, _ = train(entry, seeds, device)
            for row in curve:
                key = str(int(row["step"]))
                losses.setdefault(name, {}).setdefault(key, []).append(row["batch_nats"])
        print(name, {step: statistics.fmean(row) for step, row in losses[name].items()}, flush=True)
    return {"machine": machine(device), "seeds": list(SPREAD_SEEDS), "batch_nats": losses}


def shake_lstm() -> dict[str, Any]:
    """Train ShakeLSTM as published; validate as its document does."""
    settings = at_scale("full")
    entry = settings.model("shake_lstm")
    ids = load(start_torch())
    held_N = torch.cat([ids["validation"], ids["test"]])
    budget = entry.training

    def watch(model: LanguageModel, point: trainer.Point) -> dict[str, float]:
        assert budget.batch is not None
        losses = random_batches(model, held_N, budget.batch, budget.block, 100, 1 + point.step)
        tens = [statistics.fmean(losses[at : at + 10]) for at in range(0, 100, 10)]
        print(f"step {point.step}: {point.train_nats:.4f} {tens[0]:.4f}", flush=True)
        return {"ten_batches_nats": tens[0], "ten_batches_sd": statistics.stdev(tens)}

    return record(entry, settings, watch)


def lmnet(width: int) -> dict[str, Any]:
    """Train LMNet of a width to step 500 with the published batches."""
    settings = at_scale(
        "full",
        models__lmnet__full__n_embd=width,
        models__lmnet__full__steps=500,
    )
    return record(settings.model("lmnet_all"), settings, lmnet_batches)


def lmnet_batches(model: LanguageModel, point: trainer.Point) -> dict[str, float]:
    """Return mean and spread over ten batches of LMNet's, for a point of its curve."""
    all_N = torch.cat(list(load(next(model.parameters()).device).values()))
    losses = random_batches(model, all_N, 128, 256, 10, 1 + point.step)
    return {"batches_mean": statistics.fmean(losses), "batches_sd": statistics.stdev(losses)}


def starts() -> dict[str, Any]:
    """Measure how much the first loss of LMNet varies from seed to seed, by width."""
    device = start_torch()
    ids = load(device)
    all_N = torch.cat(list(ids.values()))
    symbols = len(Vocabulary.load(ENCODED / "vocabulary.json"))
    losses: dict[str, list[float]] = {}
    for width in WIDTHS:
        plan = at_scale("full", models__lmnet__full__n_embd=width).model("lmnet_all").training
        assert plan.batch is not None
        for seed in SPREAD_SEEDS:
            torch.manual_seed(seed)
            model = models.build("lmnet", symbols, plan.block, {"n_embd": width}).to(device)
            batch = random_batches(model, all_N, plan.batch, plan.block, 1, seed)
            losses.setdefault(str(width), []).extend(batch)
        print(width, statistics.fmean(losses[str(width)]), flush=True)
    return {"machine": machine(device), "seeds": list(SPREAD_SEEDS), "lmnet": losses}


def published_lmnet() -> dict[str, Any]:
    """Train LMNet, as wide as fits the published curve best, for its 10,000 steps."""
    return record(at_scale("full").model("lmnet_all"), at_scale("full"), lmnet_batches)


def published(name: str) -> dict[str, Any]:
    """Train one of document E's models for all its epochs."""
    return record(at_scale("full").model(f"{name}_all"), at_scale("full"))


def recurrent(name: str, steps: int) -> dict[str, Any]:
    """Train one of document E's models for the steps that its own corpus gave it."""
    section = f"models__{name}__full__"
    settings = at_scale("full", **{f"{section}epochs": None, f"{section}steps": steps})
    return record(settings.model(f"{name}_all"), settings)


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "spread": spread,
    "starts": starts,
    "rnn": partial(recurrent, "rnn", 2100),
    **{f"lmnet_{width}": partial(lmnet, width) for width in WIDTHS},
    "shake_lstm": shake_lstm,
    "lstm_scratch": partial(recurrent, "lstm_output_gate", 4200),
    "published_lmnet": published_lmnet,
    "published_rnn": partial(published, "rnn"),
    "published_lstm_scratch": partial(published, "lstm_output_gate"),
}


def main(names: list[str]) -> None:
    """Run what is named, or all that is not recorded yet."""
    shared = "--shared" in names
    names = [name for name in names if name != "--shared"]
    if unknown := set(names) - set(RUNS):
        sys.exit(f"unknown run {', '.join(sorted(unknown))} (allowed: {', '.join(RUNS)})")
    known = read_json(OUTPUT) if OUTPUT.is_file() else {}
    missing = [name for name in RUNS if name not in known]
    if start_torch().type != "cuda":
        missing = [name for name in missing if not name.startswith("published")]
    for name in names or missing:
        print(f"{name}: running", flush=True)
        result = RUNS[name]() | {"shared": shared}
        # Read again: another process may have added a run meanwhile.
        known = read_json(OUTPUT) if OUTPUT.is_file() else {}
        known[name] = result
        in_order = {key: known[key] for key in RUNS if key in known}
        write_json(OUTPUT, {"command": "python -m benchmarks.sources", **in_order})
        last = result.get("curve", [{}])[-1]
        if last:
            print(
                f"{name}: {result['steps']:,} steps in {result['seconds']:,} s; "
                f"training {last['train_nats']:.4f} nats ({last['train_nats'] / math.log(2):.4f} "
                "bits) per character",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
