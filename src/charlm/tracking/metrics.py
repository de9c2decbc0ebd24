"""Results as MLflow metrics: flat names, one number each."""

import math
from pathlib import Path
from typing import Any

from charlm import results
from charlm.files import read_json


def flatten(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as pairs whose names are joined by dots."""
    flat: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def point_metrics(row: dict[str, float]) -> tuple[int, dict[str, float]]:
    """Return a point of a loss curve, a row of curve.csv, as a step and MLflow metrics."""
    values = {key: value for key, value in row.items() if key not in ("step", "characters")}
    for kind in ("train", "validation"):
        values[f"{kind}_bits"] = values[f"{kind}_nats"] / math.log(2)
    return int(row["step"]), values


def evaluation_metrics(path: Path, model: Path) -> dict[str, float]:
    """Return metrics.json as MLflow metrics: streaming.test.bits_per_char and so on.

    Args:
        path: results/NAME/metrics.json.
        model: the folder models/NAME, whose weights they must be of.

    Raises:
        UserError: the file is missing, damaged, or of other weights.
    """
    content = results.load(path, model)
    ways = ("windowed", "windowed_256", "streaming")
    losses: dict[str, Any] = {way: content[way] for way in ways if way in content}
    return {key: float(value) for key, value in flatten(losses)}


def entropy_metrics(path: Path) -> dict[str, float]:
    """Return entropy.json as MLflow metrics: entropy.plug_in.order_3 and so on, in bits."""
    return {
        f"entropy.{name}.order_{row['order']}": found["conditional_bits_per_char"]
        for row in read_json(path)["texts"]["whole"]["orders"]
        for name, found in row["estimates"].items()
    }


def flow_metrics(flow: dict[str, Any]) -> dict[str, float]:
    """Return activations as MLflow metrics: activations.initial.output.mean_abs and so on."""
    return {
        f"activations.{when}.{row['layer']}.{key}": row[key]
        for when, found in flow.items()
        for row in found["layers"]
        for key in ("mean_abs", "sd", "gradient_mean_abs", "gradient_sd")
        if row[key] is not None
    }
