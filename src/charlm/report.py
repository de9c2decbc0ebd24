"""Tables and pictures from the files of the other stages; nothing here is measured.

Everything in the page is text or inline SVG, so that the one file can be sent to somebody.
"""

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from charlm.encoding import SPLITS
from charlm.errors import UserError
from charlm.files import read_json

DOCUMENTS = {
    "A": "A. Entropy notebook and ShakeLSTM",
    "B": "B. LMNet",
    "C": "C. Perceptron to MLP",
    "D": "D. Bigram to self-attention",
    "E": "E. RNN and LSTM from scratch",
}
ESTIMATORS = {
    "plug_in": "plug-in",
    "miller_madow": "Miller-Madow",
    "grassberger": "Grassberger",
    "chao_shen": "Chao-Shen",
}
LITERATURE = {
    "Shannon 1951, upper bound": 1.3,
    "Cover and King 1978": 1.34,
    "Brown et al. 1992": 1.75,
    "Teahan and Cleary 1996": 1.46,
}
"""Bits per character of English as others put it: of 27 letters, Brown et al. of 95 characters."""

HELD_OUT = (*SPLITS[1:], "holdout")
WAYS = ("streaming", "windowed")


@dataclass(frozen=True)
class Result:
    """All that the pipeline knows of one model.

    Attributes:
        name: entry of the zoo.
        metrics: content of metrics.json.
        sample: the drawn text.
        passage: content of passage.json.
        curve: rows of curve.csv as numbers; none if the model counts instead of being trained.
        activations: content of activations.json; None likewise.
        mixture: content of mixture.json; None if the model is not mixed of others.
        adaptive: content of adaptive.json; None if the model is scored as it is only.
    """

    name: str
    metrics: dict[str, Any]
    sample: str
    passage: dict[str, Any]
    curve: list[dict[str, float]]
    activations: dict[str, Any] | None
    mixture: dict[str, Any] | None
    adaptive: dict[str, Any] | None


def read_result(folder: Path, *, trained: bool, mixed: bool, adapts: bool) -> Result:
    """Read results/ENTRY.

    Args:
        folder: of the entry.
        trained: whether there is a curve with activations.
        mixed: whether there is a mixture.json.
        adapts: whether there is an adaptive.json.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        table = (folder / "curve.csv").read_text(encoding="utf-8") if trained else ""
        with (folder / "sample.txt").open(encoding="utf-8", newline="") as file:
            sample = file.read()
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): run `dvc repro`"
        ) from None
    rows = csv.DictReader(io.StringIO(table))
    curve = [{key: float(value) for key, value in row.items()} for row in rows]
    metrics = read_json(folder / "metrics.json")
    activations = read_json(folder / "activations.json") if trained else None
    mixture = read_json(folder / "mixture.json") if mixed else None
    adaptive = read_json(folder / "adaptive.json") if adapts else None
    passage = read_json(folder / "passage.json")
    return Result(folder.name, metrics, sample, passage, curve, activations, mixture, adaptive)


def leaderboard(results: list[Result], times: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a model, best streaming validation loss first.

    Args:
        results: of all models in the zoo.
        times: seconds of training by model, from the recorded benchmark of the scale in use; a
            model that is not in it has None.
    """
    rows = [
        {
            "model": result.name,
            "parameters": result.metrics["parameters"],
            "context_length": result.metrics["context_length"],
            **{
                way: {
                    split: {
                        unit: result.metrics[way][split][unit]
                        for unit in ("nats_per_char", "bits_per_char")
                    }
                    for split in HELD_OUT
                }
                for way in WAYS
            },
            "training_seconds": times.get(result.name),
        }
        for result in results
    ]
    return sorted(rows, key=lambda row: row["streaming"]["validation"]["nats_per_char"])


def joined_curves(results: list[Result]) -> list[dict[str, str | float]]:
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


def ladder(rows: list[dict[str, Any]], entropy: dict[str, Any]) -> list[dict[str, str | float]]:
    """Return the entropy ladder as one table for `dvc plots`.

    Curves lie at their characters of context; models and compressors beside them, in three
    columns by turns, so that their names keep apart.
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
        (found["holdout"]["bits_per_char"], found["name"], "compressor")
        for found in entropy["compressors"]
    ]
    beside = orders[-1]["order"] + 1
    return [
        {"series": title, "kind": "curve", "context": order - 1, "bits_per_char": bits}
        for title, order, bits in curves
    ] + [
        {"series": name, "kind": kind, "context": beside + 3 * (place % 3), "bits_per_char": bits}
        for place, (bits, name, kind) in enumerate(sorted(points))
    ]


def page(
    results: list[Result],
    rows: list[dict[str, Any]],
    entropy: dict[str, Any],
    sources: dict[str, Any],
    machine: str,
    scale: str,
) -> str:
    """Return report.html.

    Args:
        results: of all models in the zoo.
        rows: their leaderboard.
        entropy: content of results/entropy.json.
        sources: content of reports/sources.json.
        machine: that the training times were recorded on; "" if there are none.
        scale: the budgets in use.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("charlm", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_name = {result.name: result for result in results}
    ordered = [by_name[row["model"]] for row in rows]
    return environment.get_template("report.html.j2").render(
        rows=rows,
        results=ordered,
        entropy=entropy,
        estimators=ESTIMATORS,
        held={row["order"]: row for row in entropy["held_out"]},
        documents=[
            (title, [row for row in sources["rows"] if row["document"] == letter])
            for letter, title in DOCUMENTS.items()
        ],
        verdicts=sources["verdicts"],
        seen=sources["this_run"],
        machine=machine,
        scale=scale,
        uniform=math.log2(entropy["symbols"]),
        passages={result.name: result.passage for result in ordered},
        curves=_svg(_draw_curves(ordered), "curves"),
        ladder=_svg(_draw_ladder(rows, entropy), "ladder"),
        start=_svg(_draw_start(ordered, math.log(entropy["symbols"])), "start"),
    )


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG, the same bytes every time; its ids begin with its name."""
    # Text stays text: it is found by a search, read aloud, and needs no font in the file.
    with mpl.rc_context({"svg.hashsalt": "charlm", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # Matplotlib numbers its ids from 1 in every picture, and a page may hold an id once.
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colours(count: int) -> list[Any]:
    """Return a colour a model, in the order of the leaderboard, the same in every picture."""
    palette = mpl.color_sequences["tab10" if count <= 10 else "tab20"]
    return [palette[index % len(palette)] for index in range(count)]


def _draw_curves(results: list[Result]) -> Figure:
    """Draw the validation estimate of each model against the characters it was trained on."""
    figure, axes = _axes()
    for result, colour in zip(results, _colours(len(results)), strict=True):
        if not result.curve:
            continue
        seen = [row["characters"] for row in result.curve if row["characters"]]
        bits = [row["validation_nats"] / math.log(2) for row in result.curve if row["characters"]]
        axes.plot(seen, bits, marker=".", color=colour, label=result.name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("characters trained on")
    axes.set_ylabel("validation, bits per character (estimate)")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def spread(levels: list[float], gap: float) -> list[float]:
    """Return heights for labels of ascending levels, moved up where they would overlap.

    >>> spread([1.0, 1.1, 3.0], 0.5)
    [1.0, 1.5, 3.0]
    """
    heights: list[float] = []
    for level in levels:
        heights.append(max(level, heights[-1] + gap) if heights else level)
    return heights


def _draw_ladder(rows: list[dict[str, Any]], entropy: dict[str, Any]) -> Figure:
    """Draw conditional entropies by context, and beside them every model and compressor."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    orders = entropy["texts"]["whole"]["orders"]
    for (key, title), colour in zip(ESTIMATORS.items(), ("0.45", *_colours(3)), strict=True):
        left.plot(
            [row["order"] - 1 for row in orders],
            [row["estimates"][key]["conditional_bits_per_char"] for row in orders],
            marker="o" if key == "plug_in" else ".",
            linestyle="-" if key == "plug_in" else "--",
            color=colour,
            label=f"{title}, of the text itself",
        )
    # A large text has no held-out losses.
    if entropy["held_out"]:
        left.plot(
            [row["order"] - 1 for row in entropy["held_out"]],
            [row["holdout"]["bits_per_char"] for row in entropy["held_out"]],
            marker="o",
            color="black",
            linewidth=2.5,
            label="n-gram with Kneser-Ney smoothing, on the holdout",
        )
        best = min(row["holdout"]["bits_per_char"] for row in entropy["held_out"])
        for axes in (left, right):
            axes.axhline(best, color="black", linewidth=0.8, linestyle=":")
    left.set_xlabel("characters of context")
    left.set_ylabel("bits per character")
    left.legend(frameon=False, loc="lower left")
    points = [
        (row["streaming"]["holdout"]["bits_per_char"], row["model"], colour, "o")
        for row, colour in zip(rows, _colours(len(rows)), strict=True)
    ]
    points += [
        (found["holdout"]["bits_per_char"], f"{found['name']} (adaptive)", "0.3", "D")
        for found in entropy["compressors"]
    ]
    points += [(level, title, "0.6", "_") for title, level in LITERATURE.items()]
    points.sort(key=lambda point: point[:2])
    top = 1.03 * max(level for level, *_ in points)
    heights = spread([level for level, *_ in points], top / 36)
    for (level, title, colour, marker), height in zip(points, heights, strict=True):
        right.plot(0, level, marker, color=colour, clip_on=False)
        right.annotate(
            f"{title} {level:.3f}" if marker != "_" else f"{title}: {level:g}",
            (0, level),
            (0.25, height),
            va="center",
            fontsize="small",
            color="0.45" if marker == "_" else "black",
            arrowprops={"arrowstyle": "-", "color": colour, "relpos": (0, 0.5), "shrinkA": 0},
        )
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.grid(axis="x", alpha=0.25)
    left.set_ylim(0, max(top, heights[-1]))
    right.set_xlim(-0.1, 2)
    right.set_xticks([])
    right.spines[["left", "bottom"]].set_visible(False)
    right.tick_params(left=False)
    return figure


def _draw_start(results: list[Result], uniform: float) -> Figure:
    """Draw where training starts and ends: spread of the logits against the loss, both log.

    Args:
        results: in the order of the leaderboard.
        uniform: nats per character of not knowing anything.
    """
    figure, axes = _axes()
    axes.axhline(uniform, color="0.45", linestyle="--", linewidth=1)
    axes.annotate(
        f"not knowing: {uniform:.2f} nats",
        (0.99, uniform),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
    )
    for result, colour in zip(results, _colours(len(results)), strict=True):
        if result.activations is None:
            continue
        points = []
        for when in ("initial", "trained"):
            output = next(
                row for row in result.activations[when]["layers"] if row["layer"] == "output"
            )
            points.append((output["sd"], result.activations[when]["nats_per_char"]))
        (x0, y0), end = points
        axes.annotate(
            "", end, (x0, y0), arrowprops={"arrowstyle": "->", "color": colour, "alpha": 0.7}
        )
        axes.plot(x0, y0, "o", color=colour, markerfacecolor="none", label=result.name)
        axes.plot(*end, "o", color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("standard deviation of the logits")
    axes.set_ylabel("training loss, nats per character")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
