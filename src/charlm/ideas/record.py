"""benchmarks/ideas.json: what each idea gains, from the results of both sides.

Differences are base minus idea, in bits per character: positive is what the idea gains. Runs are
paired by their seed.

Shapes: S seeds, C chunks of validation.
"""

import datetime
import math
import os
import platform
import re
import statistics
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit

from charlm import models
from charlm.files import read_json
from charlm.ideas.catalogue import Catalogue, Idea, as_yaml
from charlm.ideas.kinds import KINDS
from charlm.timings import processor

RECORD = Path("benchmarks/ideas.json")

CONFIDENCE = 0.95
"""Of an interval around a difference. If it holds zero, the difference is not significant."""

SMALLEST = 1e-4
"""Bits per character: what is below is rounding, however sure it is."""

MOST_LINES = 12
"""Lines of code that are shown of an idea."""

PACKAGE = models.FOLDER.parent

Side = dict[str, Any]


def rows(
    catalogue: Catalogue, names: list[str], symbols: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return the row of each idea.

    Args:
        catalogue: of the ideas.
        names: of those that were measured; one whose base was not has nothing to be compared with.
        symbols: of the vocabulary.
        folder: of the results.
    """
    ideas = catalogue.content.ideas
    results = {name: read_json(folder / f"{catalogue.names[name]}.json") for name in names}
    found = {}
    for name in names:
        idea = ideas[name]
        found[name] = {
            "family": idea.family,
            "title": idea.title,
            "answer": idea.answer,
            "source": idea.source,
            "base": idea.base,
            "change": _change(idea),
            "override": catalogue.override(name),
            "code": code(catalogue, name),
            **side(results[name]),
            "gain": (
                gain(results[idea.base], results[name], catalogue.shares(name, str(idea.base)))
                if idea.base in results
                else None
            ),
            "from_nothing": math.log2(symbols) - validation(results[name]),
        }
    return found


def validation(result: Side) -> float:
    """Return the mean over the seeds of the loss on validation, in bits per character."""
    losses: list[float] = [run["validation"] for run in result["runs"]]
    return statistics.mean(losses)


def side(result: Side) -> dict[str, Any]:
    """Return the figures of one side: means over its seeds."""
    runs = result["runs"]
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
    rates = list(result["rates"])
    best = result.get("best_rate")
    curves = [run["curve"] for run in runs if run["curve"]]
    return {
        "seeds": [run["seed"] for run in runs],
        "validation": validation(result),
        "test": _mean(result, "test"),
        "windowed": _mean(result, "windowed"),
        "parameters": runs[0]["parameters"],
        "characters": runs[0]["characters"],
        "seconds": statistics.mean(seconds) if seconds else None,
        "learning_rate": runs[0]["learning_rate"],
        "rates": result["rates"],
        # A better rate may lie beyond those that were tried.
        "at_edge": len(rates) > 1 and best in (rates[0], rates[-1]),
        "curve": mean_curve(curves),
    }


def gain(base: Side, idea: Side, shares: bool = False) -> dict[str, Any]:
    """Return what an idea gains, bits per character, and how sure that is.

    Args:
        base: results of the side that is changed.
        idea: results of the side with the idea.
        shares: whether several runs share a model, as ensembles of one side's seeds do: their
            spread may be too small an error, and the larger one counts.
    """
    pairs = _pairs(base, idea)
    differences = [before["validation"] - after["validation"] for before, after in pairs]
    mean = statistics.mean(differences)
    error, over, count = text_error(pairs), "text", len(pairs[0][0]["chunks"])
    if len(differences) > 1:
        spread = statistics.stdev(differences) / math.sqrt(len(differences))
        if not shares or error is None or spread > error:
            error, over, count = spread, "seeds", len(differences)
    return {
        "base_validation": validation(base),
        "validation": mean,
        "error": error,
        "over": over,
        "each": differences,
        "verdict": verdict(mean, error, count),
        "windowed": _difference(pairs, "windowed"),
        "test": _difference(pairs, "test"),
        "equal_seconds": equal_seconds(pairs),
        "kinds": by_kind(pairs),
    }


def verdict(mean: float, error: float | None, count: int) -> str:
    """Return whether a difference is a gain, a loss, or not significant.

    Args:
        mean: the difference.
        error: its standard error; None if it is not known.
        count: seeds, or pieces of the text, that the error is of.

    Source: Student, "The Probable Error of a Mean", 1908: the error of few is itself uncertain, so
    three seeds need 4.3 standard errors, and five 2.8.
    """
    if error is None:
        return "not significant"
    errors = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    if abs(mean) < max(errors * error, SMALLEST):
        return "not significant"
    return "gain" if mean > 0 else "loss"


def text_error(pairs: list[tuple[Side, Side]]) -> float | None:
    """Return the standard error of a mean difference over pieces of the text, bits per character.

    None if there is one piece alone.
    """
    pieces = len(pairs[0][0]["chunks"])
    if pieces < 2:
        return None
    each = [
        statistics.mean(a["chunks"][k] - b["chunks"][k] for a, b in pairs) / math.log(2)
        for k in range(pieces)
    ]
    spread: float = statistics.stdev(each) * math.sqrt(pieces) / _characters(pairs[0][0])
    return spread


def by_kind(pairs: list[tuple[Side, Side]]) -> dict[str, dict[str, float]]:
    """Return where a difference comes from.

    Returns:
        for each kind of character its `share` of all, what it adds to the difference (`bits`, of
        all characters, so that kinds sum to the whole), and the difference on it alone (`each`).
    """
    found = {}
    kinds = pairs[0][0]["kinds"]
    total = _characters(pairs[0][0])
    for kind, (count, _) in kinds.items():
        nats = statistics.mean(
            before["kinds"][kind][1] - after["kinds"][kind][1] for before, after in pairs
        )
        found[kind] = {
            "share": count / total,
            "bits": nats / math.log(2) / total,
            "each": nats / math.log(2) / count if count else 0.0,
        }
    return found


def equal_seconds(pairs: list[tuple[Side, Side]]) -> dict[str, float] | None:
    """Return the difference where the faster side ends, by the loss curves; None without curves."""
    curves = [(a["curve"], b["curve"]) for a, b in pairs if a["curve"] and b["curve"]]
    if not curves:
        return None
    found = []
    for before, after in curves:
        seconds = min(before[-1][1], after[-1][1])
        found.append((seconds, _at(before, seconds) - _at(after, seconds)))
    return {
        "seconds": statistics.mean(seconds for seconds, _ in found),
        "bits": statistics.mean(bits for _, bits in found),
    }


def mean_curve(curves: list[list[list[float]]]) -> list[list[float]]:
    """Return characters, seconds and bits at each point of the loss curve: means over the seeds."""
    if not curves:
        return []
    points = zip(*curves, strict=True)
    return [[round(statistics.mean(values), 4) for values in zip(*p, strict=True)] for p in points]


def machine() -> dict[str, str]:
    """Return what figures were measured on, and when."""
    cores = f"{processor()}, {os.cpu_count()} cores"
    return {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else cores,
        "versions": f"{platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
    }


def code(catalogue: Catalogue, name: str) -> list[str]:
    """Return the lines of code that an idea is: those that name what it changes.

    Each is FILE:LINE: TEXT. There are none where only a number changes a size.
    """
    idea = catalogue.content.ideas[name]
    if idea.base is None or idea.change is None:
        return []
    architecture = catalogue.runs[name].model
    keys = [key for key in idea.change if key != "entry"]
    keys = [key for key in keys if not re.search(r"steps|validate|learning_rate$", key)]
    found: list[str] = []
    model = PACKAGE / "models"
    files = [*sorted(model.glob("*.py")), *sorted((PACKAGE / "training").glob("*.py"))]
    for file in files:
        if file.parent == model and file.stem != architecture:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if any(re.search(rf"\.{key}\b(?!\()", line) for key in keys):
                where = file.relative_to(PACKAGE.parent.parent).as_posix()
                found.append(f"{where}:{number}: {line.strip()}")
    return found[:MOST_LINES]


def _change(idea: Idea) -> str:
    """Return what an idea changes, in a line."""
    if idea.ensemble:
        return f"ensemble of {' and '.join(idea.ensemble)}, {idea.mixing}"
    if idea.dynamic:
        return "dynamic evaluation"
    return ", ".join(f"{key}: {as_yaml(value)}" for key, value in (idea.change or {}).items())


def _pairs(base: Side, idea: Side) -> list[tuple[Side, Side]]:
    """Return the runs of both sides with the same seed; a model without seeds goes with each."""
    before, after = base["runs"], idea["runs"]
    count = max(len(before), len(after))
    return [(before[k % len(before)], after[k % len(after)]) for k in range(count)]


def _characters(run: Side) -> int:
    """Return how many characters of validation were scored; each is of one of KINDS."""
    return sum(run["kinds"][kind][0] for kind in KINDS)


def _mean(result: Side, key: str) -> float | None:
    values: list[float | None] = [run[key] for run in result["runs"]]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _difference(pairs: list[tuple[Side, Side]], key: str) -> float | None:
    before = _mean({"runs": [run for run, _ in pairs]}, key)
    after = _mean({"runs": [run for _, run in pairs]}, key)
    return None if before is None or after is None else before - after


def _at(curve: list[list[float]], seconds: float) -> float:
    """Return the loss at a moment, between two points of a curve."""
    before = curve[0]
    for point in curve:
        if point[1] >= seconds:
            width = point[1] - before[1]
            share = (seconds - before[1]) / width if width else 1.0
            return before[2] + share * (point[2] - before[2])
        before = point
    return before[2]
