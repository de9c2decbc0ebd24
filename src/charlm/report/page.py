"""Tables and pictures from the files of the other stages; nothing here is measured.

Everything in the page is text or inline SVG, so that the one file can be sent to somebody.
"""

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from charlm.data.encoding import SPLITS
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
    "Takahashi and Tanaka-Ishii 2018": 1.12,
}
"""Bits per character of English as others put it: of 27 letters, Brown et al. of 95 characters.

The last is what neural models would reach with an endless context and endless text to learn from,
by a power law (Entropy 20(11), 839, abstract).
"""

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
        curve = read_curve(folder / "curve.csv") if trained else []
        with (folder / "sample.txt").open(encoding="utf-8", newline="") as file:
            sample = file.read()
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): run `dvc repro`"
        ) from None
    metrics = read_json(folder / "metrics.json")
    activations = read_json(folder / "activations.json") if trained else None
    mixture = read_json(folder / "mixture.json") if mixed else None
    adaptive = read_json(folder / "adaptive.json") if adapts else None
    passage = read_json(folder / "passage.json")
    return Result(folder.name, metrics, sample, passage, curve, activations, mixture, adaptive)


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of curve.csv as numbers."""
    with path.open(encoding="utf-8", newline="") as table:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(table)]


def leaderboard(
    results: list[Result], times: dict[str, Any], repeats: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return a row a model, best streaming validation loss first.

    Args:
        results: of all models in the zoo.
        times: seconds of training by model, from the recorded benchmark of the scale in use; a
            model that is not in it has None.
        repeats: contents of metrics.json of the same models with other seeds, by model.
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
            "over_seeds": over_seeds([result.metrics, *repeats.get(result.name, [])]),
            "training_seconds": times.get(result.name),
        }
        for result in results
    ]
    return sorted(rows, key=lambda row: row["streaming"]["validation"]["nats_per_char"])


def over_seeds(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return mean and standard deviation of the losses of one model with several seeds.

    Args:
        metrics: contents of metrics.json, one a seed.

    Returns:
        bits per character by way and split, and the number of seeds; None for one seed, which has
        no spread.
    """
    if len(metrics) == 1:
        return None

    def summary(way: str, split: str) -> dict[str, float]:
        bits = [found[way][split]["bits_per_char"] for found in metrics]
        return {"mean_bits_per_char": mean(bits), "sd_bits_per_char": stdev(bits)}

    return {
        "seeds": len(metrics),
        **{way: {split: summary(way, split) for split in HELD_OUT} for way in WAYS},
    }


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


def bars(
    results: list[Result], rows: list[dict[str, Any]], entropy: dict[str, Any]
) -> list[tuple[float, str, str, str]]:
    """Return bits per character on the holdout, name, remark and kind, the best first.

    Kinds are model, adaptive (models and compressors that learn while they are scored) and
    reference: what is known without a model. What is worse than not knowing anything is left out,
    so that the others can be told apart.

    Args:
        results: of all models in the zoo.
        rows: their leaderboard.
        entropy: content of results/entropy.json.
    """
    uniform = math.log2(entropy["symbols"])
    known = entropy["texts"]["whole"]["orders"][0]["estimates"]["plug_in"]["bits_per_char"]
    found = [(known, "symbol frequencies", "", "reference"), (uniform, "nothing", "", "reference")]
    for row in rows:
        seconds = row["training_seconds"]
        took = f"{seconds:.{0 if seconds >= 1 else 1}f} s" if seconds else ""
        found.append((row["streaming"]["holdout"]["bits_per_char"], row["model"], took, "model"))
    learning = [(each["name"], each["holdout"]) for each in entropy["compressors"]]
    learning += [(each.name, each.adaptive["holdout"]) for each in results if each.adaptive]
    found += [(leaf["bits_per_char"], name, "adaptive", "adaptive") for name, leaf in learning]
    return sorted(each for each in found if each[0] <= uniform)


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
    by_name = {result.name: result for result in results}
    ordered = [by_name[row["model"]] for row in rows]
    return render(
        "report.html.j2",
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
        bars=bars(ordered, rows, entropy),
        trained=[result.name for result in ordered if result.curve],
        passages={result.name: result.passage for result in ordered},
        curves=as_svg(_draw_curves(ordered, rows), "curves"),
        ladder=as_svg(_draw_ladder(rows, entropy), "ladder"),
        start=as_svg(_draw_start(ordered, math.log(entropy["symbols"])), "start"),
    )


def render(template: str, **values: Any) -> str:
    """Return a page of charlm/templates; every value is escaped unless the template says safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("charlm.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def as_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG, the same bytes every time; its ids begin with its name."""
    # Text stays text: it is found by a search, read aloud, and needs no font in the file.
    with mpl.rc_context({"svg.hashsalt": "charlm", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # Matplotlib numbers its ids from 1 in every picture, and a page may hold an id once.
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])


def axes_alone() -> tuple[Figure, Any]:
    """Return a figure with nothing in it but axes."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def colours(count: int) -> list[Any]:
    """Return a colour a model, in the order of the leaderboard, the same in every picture."""
    palette = mpl.color_sequences["tab10" if count <= 10 else "tab20"]
    return [palette[index % len(palette)] for index in range(count)]


def _draw_curves(results: list[Result], rows: list[dict[str, Any]]) -> Figure:
    """Draw the validation estimate of each model against what its training took.

    Args:
        results: in the order of the leaderboard.
        rows: the leaderboard, whose seconds give the picture on the right; without any there is
            none, and no model has a place there whose time was not recorded.
    """
    timed = [row["training_seconds"] for row in rows]
    figure = Figure(figsize=(12 if any(timed) else 9, 5), layout="constrained")
    all_axes = figure.subplots(1, 2 if any(timed) else 1, sharey=True, squeeze=False)[0]
    for result, colour, seconds in zip(results, colours(len(results)), timed, strict=True):
        points = [row for row in result.curve if row["characters"]]
        bits = [row["validation_nats"] / math.log(2) for row in points]
        seen = [row["characters"] for row in points]
        if not seen:
            continue
        all_axes[0].plot(seen, bits, marker=".", color=colour, label=result.name)
        if seconds:
            # Every step of a training takes as long as another.
            taken = [seconds * characters / seen[-1] for characters in seen]
            all_axes[1].plot(taken, bits, marker=".", color=colour)
    for axes, title in zip(
        all_axes, ("characters trained on", "seconds of training"), strict=False
    ):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.set_xlabel(title)
    all_axes[0].set_ylabel("validation, bits per character (estimate)")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def training_picture(curve: list[dict[str, float]], activations: dict[str, Any]) -> str:
    """Return what MLflow shows of one training, as SVG: its losses and what flows in its layers.

    Args:
        curve: rows of curve.csv.
        activations: content of activations.json.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = [row["characters"] for row in curve]
    for kind in ("train", "validation"):
        left.plot(seen, [row[f"{kind}_nats"] / math.log(2) for row in curve], label=kind)
    left.set_xlabel("characters trained on")
    left.set_ylabel("bits per character (estimate)")
    names: list[str] = []
    for when, found in activations.items():
        layers = [row for row in found["layers"] if None not in (row["mean_abs"], row["sd"])]
        names = [row["layer"] for row in layers]
        mean_abs, sd = ([row[key] for row in layers] for key in ("mean_abs", "sd"))
        right.errorbar(range(len(names)), mean_abs, sd, fmt="o", capsize=3, label=when)
    right.set_xticks(range(len(names)), names, rotation=30, ha="right")
    right.set_ylabel("mean |x|; bars: standard deviation of x")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return as_svg(figure, "training")


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
    for (key, title), colour in zip(ESTIMATORS.items(), ("0.45", *colours(3)), strict=True):
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
        for row, colour in zip(rows, colours(len(rows)), strict=True)
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
    figure, axes = axes_alone()
    axes.axhline(uniform, color="0.45", linestyle="--", linewidth=1)
    axes.annotate(
        f"not knowing: {uniform:.2f} nats",
        (0.99, uniform),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
    )
    for result, colour in zip(results, colours(len(results)), strict=True):
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
