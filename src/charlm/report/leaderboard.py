"""Result files become tables: the ranking, the learning curves, the entropy ladder.

Nothing is measured here. Losses are in bits per character, with nats beside them.
"""

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from charlm.data.encoding import DIGESTS, SPLITS
from charlm.errors import UserError
from charlm.files import read_array, read_json
from charlm.timings import training_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charlm.data.encoding import Ids

HELD_OUT = (*SPLITS[1:], "holdout")
"""The parts of the text that no ranked model was trained on; the holdout is both together."""

PROTOCOLS = ("streaming", "windowed", "windowed_256")
"""How they are scored: with all the context that a model can use, in windows of its own training
block, in windows of 256 characters."""

ESTIMATORS = {
    "plug_in": "plug-in",
    "miller_madow": "Miller-Madow",
    "grassberger": "Grassberger",
    "chao_shen": "Chao-Shen",
}

PIECE = 512
"""Characters of a piece of text: for errors over the text."""

SMALLEST = 0.001
"""Bits per character: a difference below it is called a tie, however sure it is."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """All that the pipeline knows of a run or an ensemble.

    Attributes:
        name: of its folder.
        metrics: content of metrics.json.
        sample: the drawn text.
        excerpt: as `charlm.evaluation.metrics.excerpt` returns it.
        details: as `charlm.report.details.details` returns them.
        pieces: bits per character of each piece of validation; none where no array has them.
        curve: rows of curve.csv; none for an ensemble, and for a model that only counts.
        activations: content of activations.json; {} likewise.
        learning: content of learning.json; {} likewise.
        ensemble: content of ensemble.json; None for a run.
        dynamic: content of dynamic.json; None without dynamic evaluation.
        repeats: contents of metrics.json of runs that differ from this one by their seed alone.
    """

    name: str
    metrics: dict[str, Any]
    sample: str
    excerpt: dict[str, Any]
    details: dict[str, Any] | None
    pieces: list[float]
    curve: list[dict[str, float]]
    activations: dict[str, Any]
    learning: dict[str, Any]
    ensemble: dict[str, Any] | None
    dynamic: dict[str, Any] | None
    repeats: list[dict[str, Any]]

    @property
    def members(self) -> list[str]:
        """The names of an ensemble's members; none for a run."""
        return [member["name"] for member in self.ensemble["members"]] if self.ensemble else []


def read_result(
    results: Path,
    name: str,
    excerpt: Callable[[Any], dict[str, Any]],
    details: Callable[[Any], dict[str, Any] | None],
    pieces: Callable[[Any], list[float]],
    repeats: Iterable[str] = (),
) -> Result:
    """Read the results of a run or an ensemble.

    Args:
        results: the folder with NAME/metrics.json and more.
        name: of the run or the ensemble.
        excerpt: makes an excerpt of the log-probabilities.
        details: says where their bits go.
        pieces: returns their bits per character on each piece of validation.
        repeats: names of runs that differ from it by their seed alone.

    Raises:
        UserError: a file that every result has is missing, or a file is damaged.
    """
    folder = results / name
    metrics, sample = read_json(folder / "metrics.json"), _read_sample(folder / "sample.txt")
    log_p_RV = read_array(folder / "log_probabilities.npy")
    return Result(
        name=name,
        metrics=metrics,
        sample=sample,
        excerpt=excerpt(log_p_RV),
        details=details(log_p_RV),
        pieces=pieces(log_p_RV),
        curve=read_curve(folder / "curve.csv"),
        activations=_read_if_there(folder / "activations.json") or {},
        learning=_read_if_there(folder / "learning.json") or {},
        ensemble=_read_if_there(folder / "ensemble.json"),
        dynamic=_read_if_there(folder / "dynamic.json") or None,
        repeats=[read_json(results / repeat / "metrics.json") for repeat in repeats],
    )


def pieces(log_p_RV: "NDArray[np.floating]", targets_N: "Ids") -> list[float]:
    """Return bits per character on each whole piece of a text, of `PIECE` characters.

    Args:
        log_p_RV: log-probabilities of every symbol at the first R of its characters and more.
        targets_N: ids of the text.
    """
    count = min(len(log_p_RV), len(targets_N)) // PIECE
    if not count:
        return []
    places = np.arange(count * PIECE)
    nats = -log_p_RV[places, targets_N[: len(places)].astype(np.int64)].astype(np.float64)
    means: list[float] = (nats.reshape(count, PIECE).mean(axis=1) / math.log(2)).tolist()
    return means


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of curve.csv as numbers; none if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as table:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(table)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`") from None


def _read_sample(path: Path) -> str:
    """Return a drawn text with its line endings as they are."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `dvc repro`") from None


def _read_if_there(path: Path) -> dict[str, Any] | None:
    content: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return content


def rank(results: list[Result], seconds: dict[str, float]) -> list[Row]:
    """Return the leaderboard: a row per model, the lowest streaming validation loss first.

    Args:
        results: of the models to rank.
        seconds: of training by run, as far as they are known.
    """
    members = {result.name: result.members for result in results if result.members}
    first = min(results, key=lambda result: _validation(result, "nats_per_char"))
    rows = [
        {
            "model": result.name,
            "members": result.members,
            "parameters": result.metrics["parameters"],
            "context_length": result.metrics["context_length"],
            **{protocol: _losses(result.metrics.get(protocol)) for protocol in PROTOCOLS},
            "behind": behind(first, result),
            "over_seeds": over_seeds([result.metrics, *result.repeats]),
            "training_seconds": total_seconds(result.name, members, seconds),
        }
        for result in results
    ]
    return sorted(rows, key=lambda row: row["streaming"]["validation"]["nats_per_char"])


def _validation(result: Result, unit: str) -> float:
    value: float = result.metrics["streaming"]["validation"][unit]
    return value


def behind(first: Result, other: Result) -> dict[str, Any]:
    """Return how far a model is behind the first, bits per character, and whether that is a tie.

    The error is the standard error of the difference over pieces of validation: it says whether
    another text of the kind could turn the order round. Below two errors, or a thousandth of a bit,
    it is a tie. Of a text of one piece the error is not known (None).
    """
    bits = _validation(other, "bits_per_char") - _validation(first, "bits_per_char")
    differences = [b - a for a, b in zip(first.pieces, other.pieces, strict=False)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return {"bits": bits, "error": error, "tie": bits < max(2 * (error or 0.0), SMALLEST)}


def _losses(parts: dict[str, dict[str, float]] | None) -> dict[str, dict[str, float]] | None:
    """Return the two units of loss of each part that is held out; None if it was not scored so."""
    if parts is None:
        return None
    units = ("nats_per_char", "bits_per_char")
    return {part: {unit: parts[part][unit] for unit in units} for part in HELD_OUT}


def over_seeds(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return mean and standard deviation of the losses of one model over several seeds.

    Args:
        metrics: contents of metrics.json, one per seed.

    Returns:
        bits per character by protocol and part, and the number of seeds; None for one seed, which
        has no spread.
    """
    if len(metrics) == 1:
        return None

    def spread(protocol: str, part: str) -> dict[str, float]:
        bits = [content[protocol][part]["bits_per_char"] for content in metrics]
        return {"mean_bits_per_char": mean(bits), "sd_bits_per_char": stdev(bits)}

    spreads = {
        protocol: {part: spread(protocol, part) for part in HELD_OUT} for protocol in PROTOCOLS
    }
    return {"seeds": len(metrics), **spreads}


@dataclass(frozen=True)
class Times:
    """What trainings took.

    Attributes:
        seconds: by run, as far as they are known.
        origin: the machine that they were measured on, and the day if it is known; "" without any.
    """

    seconds: dict[str, float]
    origin: str


def training_keys(models: Path, encoded: Path) -> dict[str, str]:
    """Return by name what tells the training of each saved model that is here from any other.

    Args:
        models: the folder with NAME/config.json.
        encoded: the folder of the encoded text. A clone that pulled nothing has neither.
    """
    if not (encoded / DIGESTS).is_file():
        return {}
    folders = sorted(path.parent for path in models.glob("*/config.json"))
    return {folder.name: training_key(folder, encoded) for folder in folders}


def recorded_times(path: Path, keys: dict[str, str]) -> Times:
    """Return the times of those recorded runs whose training is the same here.

    Args:
        path: of benchmarks/training_time.json.
        keys: as `training_keys` returns them.
    """
    recorded = read_json(path)
    seconds = _matching(recorded["runs"], keys)
    return Times(seconds, f"{recorded['machine']}, {recorded['date']}" if seconds else "")


def local_times(folder: Path, keys: dict[str, str]) -> Times:
    """Return the times of those runs whose saved model was trained on this machine.

    Args:
        folder: where trainings leave RUN.json: the key, the seconds and the machine of each.
        keys: as `training_keys` returns them.
    """
    timings = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    seconds = _matching(timings, keys)
    return Times(seconds, "; ".join(sorted({timings[name]["machine"] for name in seconds})))


def _matching(timings: dict[str, Any], keys: dict[str, str]) -> dict[str, float]:
    """Return the seconds of the timings whose key is the one given."""
    return {
        name: timing["seconds"]
        for name, timing in timings.items()
        if timing["key"] is not None and timing["key"] == keys.get(name)
    }


def total_seconds(
    name: str, members: dict[str, list[str]], seconds: dict[str, float]
) -> float | None:
    """Return what a model took to train: a run its seconds, an ensemble those of its members.

    Args:
        name: of the model.
        members: by ensemble, the names of its members.
        seconds: by run.

    Returns:
        None where the seconds of a run are not known.
    """
    runs = _runs_in(name, members)
    return sum(seconds[run] for run in sorted(runs)) if runs <= seconds.keys() else None


def _runs_in(name: str, members: dict[str, list[str]]) -> set[str]:
    """Return the runs that a model consists of: itself, or those of its members, each once."""
    if name not in members:
        return {name}
    return {run for member in members[name] for run in _runs_in(member, members)}


def format_seconds(seconds: float) -> str:
    """Return seconds as people write them.

    >>> format_seconds(73.3), format_seconds(0.71)
    ('73 s', '0.7 s')
    """
    return f"{seconds:.{0 if seconds >= 1 else 1}f} s"


def join_curves(results: list[Result]) -> list[Row]:
    """Return the validation estimates of all models as one table for `dvc plots`."""
    return [
        {
            "model": result.name,
            "characters": point["characters"],
            "bits_per_char": point["validation_nats"] / math.log(2),
        }
        for result in results
        for point in result.curve
    ]


def ladder(rows: list[Row], entropy: dict[str, Any]) -> list[Row]:
    """Return the entropy ladder as one table for `dvc plots`.

    Curves lie at their characters of context. Models and compressors lie beside them, in three
    columns by turns, so that their names keep apart.

    Args:
        rows: the leaderboard.
        entropy: content of results/entropy.json.
    """
    orders = entropy["texts"]["whole"]["orders"]
    curves = [
        (title, row["order"], row["estimates"][key]["conditional_bits_per_char"])
        for key, title in ESTIMATORS.items()
        for row in orders
    ]
    curves += [
        ("Kneser-Ney, on the holdout", row["order"], row["holdout"]["bits_per_char"])
        for row in entropy["held_out"]
    ]
    points = [(row["streaming"]["holdout"]["bits_per_char"], row["model"], "model") for row in rows]
    points += [
        (row["holdout"]["bits_per_char"], row["name"], "compressor")
        for row in entropy["compressors"]
    ]
    beside = orders[-1]["order"] + 1
    return [
        {"series": title, "kind": "curve", "context": order - 1, "bits_per_char": bits}
        for title, order, bits in curves
    ] + [
        {"series": name, "kind": kind, "context": beside + 3 * (place % 3), "bits_per_char": bits}
        for place, (bits, name, kind) in enumerate(sorted(points))
    ]


@dataclass(frozen=True, order=True)
class Bar:
    """A bar of the report's first picture.

    Attributes:
        bits: per character, on validation.
        name: of what reaches it.
        remark: to stand beside it.
        kind: model; learning, for what learns while it is scored; reference, without any model.
    """

    bits: float
    name: str
    remark: str
    kind: str


def bars(results: list[Result], rows: list[Row], entropy: dict[str, Any]) -> list[Bar]:
    """Return the losses on validation, streaming, the lowest first.

    Args:
        results: of the ranked models.
        rows: their leaderboard.
        entropy: content of results/entropy.json.
    """
    uniform = math.log2(entropy["symbols"])
    drawn = [Bar(uniform, "uniform guess", "", "reference")]
    frequencies = symbol_entropy(entropy)
    if frequencies is not None:
        drawn.append(Bar(frequencies, "symbol frequencies", "", "reference"))
    for row in rows:
        seconds = row["training_seconds"]
        remark = "" if seconds is None else format_seconds(seconds)
        bits = row["streaming"]["validation"]["bits_per_char"]
        drawn.append(Bar(bits, row["model"], remark, "model"))
    learning = [(row["name"], row["validation"]) for row in entropy["compressors"]]
    learning += [(each.name, each.dynamic["validation"]) for each in results if each.dynamic]
    drawn += [Bar(loss["bits_per_char"], name, "learning", "learning") for name, loss in learning]
    return sorted(drawn)


def symbol_entropy(entropy: dict[str, Any]) -> float | None:
    """Return H_1 of the whole text, bits per character; None if single symbols were not counted.

    Args:
        entropy: content of results/entropy.json.
    """
    first = entropy["texts"]["whole"]["orders"][0]
    if first["order"] != 1:
        return None
    bits: float = first["estimates"]["plug_in"]["bits_per_char"]
    return bits
