"""What several benchmarks share: params.yaml with changes, the encoded text, one training.

What needs a GPU is measured at scale `full`, and recorded beside this file. Two variables of the
environment let a test run it all on a CPU: BENCHMARK_SCALE, another scale, and BENCHMARK_RECORDS,
another folder.
"""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import Tensor

import stages  # puts this copy's src first
from charlm import models
from charlm.cli import progress
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel
from charlm.saved_model import Config
from charlm.training import checkpoint, job
from charlm.training.trainer import Point, Trainer

ROOT = Path(stages.__file__).parent.parent
ENCODED = ROOT / "data/encoded"
RECORDS = Path(os.environ.get("BENCHMARK_RECORDS", ROOT / "benchmarks"))
GPU_SCALE = os.environ.get("BENCHMARK_SCALE", "full")
ON_GPU = torch.cuda.is_available() or GPU_SCALE != "full"
"""Whether to measure what is meant for a GPU."""

CHECKPOINT_S = 30
"""Seconds between two checkpoints of a long training."""

Watch = Callable[[LanguageModel, Point], dict[str, float]]


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


def load(device: torch.device) -> dict[str, Tensor]:
    """Return the ids of each split on a device."""
    splits = encoding.load_splits(ENCODED)
    return {split: torch.tensor(ids).to(device) for split, ids in splits.items()}


def build(run: params.Run, device: torch.device) -> tuple[LanguageModel, Config]:
    """Return a run's model with fresh weights from its seed, and its configuration."""
    config = Config.of(run, Vocabulary.load(ENCODED / "vocabulary.json").symbols)
    torch.manual_seed(run.seed)
    return config.build().to(device), config


def checkpoint_file(folder: Path, config: Config, seconds: float) -> checkpoint.CheckpointFile:
    """Return the checkpoint of a long training, which only the same training goes on from."""
    package = models.FOLDER.parent
    code = [file for pattern in job.CODE for file in sorted(package.glob(pattern))]
    versions = [torch.__version__, torch.get_num_threads(), torch.cuda.is_available()]
    text = sorted(ENCODED.glob("*.npy"))
    identity = checkpoint.fingerprint([asdict(config), versions, *code, *text])
    return checkpoint.CheckpointFile(folder, config.model, identity, seconds)


def train(
    run: params.Run,
    device: torch.device,
    watch: Watch = lambda model, point: {},
    kept: Path | None = None,
    seconds: float = CHECKPOINT_S,
) -> tuple[LanguageModel, Config, list[dict[str, float]], float | None]:
    """Train a run; return its model, its configuration, its curve and its seconds.

    The seconds are None if the training went on from what another process left.

    Args:
        run: what to train.
        device: to train on.
        watch: called with the model at each point of the curve; adds columns to it.
        kept: folder of this training alone, for what it goes on from if it is stopped: its
            checkpoint and the points so far.
        seconds: between two checkpoints.

    Raises:
        Interrupted: a signal asked for an end; a checkpoint was saved in `kept`.
    """
    model, config = build(run, device)
    ids = load(device)
    train_N = torch.cat(list(ids.values())) if run.text == "all" else ids["train"]
    file = checkpoint_file(kept, config, seconds) if kept else None
    # Past points are reported again after a restart, but the model is not what it was at them.
    past: dict[int, dict[str, float]] = {}
    if kept and file and file.load():
        past = {row["step"]: row for row in read_json(kept / "curve.json")}
    curve: list[dict[str, float]] = []

    def on_point(point: Point) -> None:
        row = {
            "step": point.step,
            "train_nats": point.train_nats,
            "batch_nats": point.batch_nats,
            "validation_nats": point.validation_nats,
        }
        curve.append(past.get(point.step) or row | watch(model, point))
        # Of the points of before all stand there already, also those that come after this one.
        if kept and point.step not in past:
            write_json(kept / "curve.json", curve)

    started = time.perf_counter()
    features_NKV = model.prepare(train_N)
    if steps := run.training.steps_on(len(train_N)):
        with progress(steps, "step", run.name) as bar, file or nullcontext():

            def on_steps(count: int, nats: float) -> None:
                bar.set_postfix_str(f"{nats:.3f} nats", refresh=False)
                bar.update(count)

            trainer = Trainer(
                model,
                train_N,
                ids["validation"],
                run.training,
                run.seed + 1,
                features_NKV=features_NKV,
                checkpoints=file,
            )
            trainer.fit(on_point, on_steps)
            if file and file.asked:  # too late for a checkpoint
                raise KeyboardInterrupt
    return model, config, curve, None if past else time.perf_counter() - started
