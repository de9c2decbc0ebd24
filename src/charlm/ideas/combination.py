"""What is made of sides that are trained already: ensembles, and dynamic evaluation.

Shapes: K members, N targets, V vocabulary.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from charlm import saved_model
from charlm.config.params import Dynamic
from charlm.config.schema import Positive, Schema
from charlm.data.encoding import Ids
from charlm.evaluation import dynamic, ensemble
from charlm.files import read_array
from charlm.ideas.side import PREDICTIONS, Holdout
from charlm.models.base import start_torch


class Ensemble(Schema):
    """Two sides as one; the same side twice is a run and the one with the next seed.

    Attributes:
        first: name of a side.
        second: likewise.
        mixing: how probabilities are put together, with weights fitted on validation.
        targets: of validation and of test, at most; null means all.
    """

    first: str
    second: str
    mixing: Literal["linear", "geometric"]
    targets: Positive | None


class Learning(Schema):
    """A side that goes on learning.

    Attributes:
        model: name of the side.
        step: how it learns, as in `dynamic` of params.yaml.
        targets: as in `Ensemble`.
    """

    model: str
    step: Dynamic
    targets: Positive | None


def measure_ensemble(
    entry: Ensemble, results: dict[str, Any], models: Path, splits: dict[str, Ids], symbols: str
) -> list[dict[str, Any]]:
    """Return the results of an ensemble for each seed.

    Args:
        entry: the ensemble.
        results: of the sides, by name.
        models: folder that holds a folder for each side.
        splits: ids of each split.
        symbols: of the vocabulary, in order.
    """
    holdout = Holdout(splits, symbols, entry.targets)
    firsts, seconds = results[entry.first]["runs"], results[entry.second]["runs"]
    later = 1 if entry.first == entry.second else 0
    found = []
    for place in range(max(len(firsts), len(seconds))):
        first, second = firsts[place % len(firsts)], seconds[(place + later) % len(seconds)]
        members = [(entry.first, first), (entry.second, second)]
        arrays = [read_array(models / side / run["name"] / PREDICTIONS) for side, run in members]
        log_p_KNV = np.stack(arrays)
        validation_KNV = log_p_KNV[:, : holdout.validation].astype(np.float64)
        fitted = ensemble.fit(validation_KNV, holdout.targets_N[: holdout.validation])
        rows = torch.empty(0, len(symbols), dtype=torch.float16)
        weights_K = fitted.ways[entry.mixing][0]
        targets_N = holdout.targets_N.astype(splits["train"].dtype)
        nats_N, _ = ensemble.scores(log_p_KNV, targets_N, weights_K, entry.mixing, rows)
        found.append(
            _content(first, first["parameters"] + second["parameters"])
            | {"weights": [round(weight, 4) for weight in weights_K.tolist()]}
            | holdout.content(nats_N.numpy())
        )
    return found


def measure_dynamic(
    entry: Learning, results: dict[str, Any], models: Path, splits: dict[str, Ids], symbols: str
) -> list[dict[str, Any]]:
    """Return the results of dynamic evaluation for each seed; arguments as above."""
    holdout = Holdout(splits, symbols, entry.targets)
    device = start_torch()
    past_M = torch.from_numpy(splits["train"]).to(device)
    targets_N = holdout.ids[1:].to(past_M.dtype).to(device)
    found = []
    for run in results[entry.model]["runs"]:
        model, _ = saved_model.load(models / entry.model / run["name"], device)
        nats_N, _ = dynamic.scores(model, past_M, targets_N, entry.step, symbols)
        found.append(_content(run, run["parameters"]) | holdout.content(nats_N.numpy()))
    return found


def _content(run: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Return what the results of a combination share with those of a side."""
    return {
        "name": run["name"],
        "seed": run["seed"],
        "learning_rate": None,
        "parameters": parameters,
        "characters": run["characters"],
        "seconds": None,
        "windowed": None,
        "curve": [],
    }
