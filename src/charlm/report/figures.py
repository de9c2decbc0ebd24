"""The report's pictures, as SVG: no file beside the page, and the same bytes every time."""

import io
import math
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from charlm.report.leaderboard import ESTIMATORS, Result, Row

GREY, PALE = "0.45", "0.6"
MOST_BITS = 1.15
"""Where the entropy ladder ends, in times of a uniform guess's bits."""

MOST_LABELS = 36
"""Labels that fit one above the other into the entropy ladder."""


def as_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG, the same bytes every time; its ids begin with its name."""
    # Text stays text: it is found by a search, read aloud, and needs no font in the file.
    with mpl.rc_context({"svg.hashsalt": "charlm", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # Matplotlib numbers its ids from 1 in every picture, and a page may hold an id once.
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])


def style(*all_axes: Axes, log: bool = False) -> None:
    """Give axes the look that all pictures have, with logarithmic scales or without."""
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
            # Plain numbers: losses span less than a power of ten.
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(mpl.ticker.FormatStrFormatter("%g"))


def single_axes() -> tuple[Figure, Axes]:
    """Return a figure with nothing in it but axes."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    return figure, figure.add_subplot()


def colours(count: int) -> list[Any]:
    """Return a colour per model, in the order of the leaderboard, the same in every picture."""
    palette = mpl.color_sequences["tab10" if count <= 10 else "tab20"]
    return [palette[index % len(palette)] for index in range(count)]


def learning_picture(results: list[Result], rows: list[Row]) -> str:
    """Return the validation estimates of all models against characters and seconds of training.

    Args:
        results: in the order of the leaderboard.
        rows: the leaderboard. Its seconds give the picture on the right: without any there is none,
            and it has no curve of a model whose seconds are not known.
    """
    timed = any(row["training_seconds"] for row in rows)
    figure = Figure(figsize=(12 if timed else 9, 5), layout="constrained")
    left, *right = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    for result, row, colour in zip(results, rows, colours(len(rows)), strict=True):
        # A logarithmic axis has no place for the first point, at no characters.
        points = [point for point in result.curve if point["characters"]]
        if not points:
            continue
        bits = [point["validation_nats"] / math.log(2) for point in points]
        characters = [point["characters"] for point in points]
        left.plot(characters, bits, marker=".", color=colour, label=result.name)
        if row["training_seconds"]:
            # Each step takes as long as any other.
            per_character = row["training_seconds"] / characters[-1]
            right[0].plot([per_character * n for n in characters], bits, marker=".", color=colour)
    style(left, *right, log=True)
    left.set_xlabel("characters trained on")
    for axes in right:
        axes.set_xlabel("seconds of training")
    left.set_ylabel("validation, bits per character (estimate)")
    figure.legend(loc="outside right upper", frameon=False)
    return as_svg(figure, "curves")


def ladder_picture(rows: list[Row], entropy: dict[str, Any], literature: dict[str, float]) -> str:
    """Return conditional entropies by context, and beside them every model and compressor.

    Args:
        rows: the leaderboard.
        entropy: content of results/entropy.json.
        literature: entropies of the language in bits per character, by their publication.
    """
    figure = Figure(figsize=(11, 9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    style(left, right)
    right.grid(False, axis="x")
    _draw_estimates(left, entropy["texts"]["whole"]["orders"])
    # A large text has no held-out losses.
    if entropy["held_out"]:
        _draw_held_out(left, entropy["held_out"])
        lowest = min(row["holdout"]["bits_per_char"] for row in entropy["held_out"])
        for axes in (left, right):
            axes.axhline(lowest, color="black", linewidth=0.8, linestyle=":")
    left.set_xlabel("characters of context")
    left.set_ylabel("bits per character")
    left.legend(frameon=False, loc="upper right")
    most = MOST_BITS * math.log2(max(2, entropy["symbols"]))
    left.set_ylim(0, _draw_levels(right, rows, entropy["compressors"], literature, most))
    return as_svg(figure, "ladder")


def _draw_estimates(axes: Axes, orders: list[dict[str, Any]]) -> None:
    """Draw the conditional entropy of the text itself, by each estimator."""
    contexts = [row["order"] - 1 for row in orders]
    for (key, title), colour in zip(ESTIMATORS.items(), (GREY, *colours(3)), strict=True):
        axes.plot(
            contexts,
            [row["estimates"][key]["conditional_bits_per_char"] for row in orders],
            "o-" if key == "plug_in" else ".--",
            color=colour,
            label=f"{title}, of the text itself",
        )


def _draw_held_out(axes: Axes, held_out: list[dict[str, Any]]) -> None:
    """Draw the loss of n-gram models on the holdout."""
    axes.plot(
        [row["order"] - 1 for row in held_out],
        [row["holdout"]["bits_per_char"] for row in held_out],
        "o-",
        color="black",
        linewidth=2.5,
        label="n-gram with Kneser-Ney smoothing, on the holdout",
    )


def _draw_levels(
    axes: Axes,
    rows: list[Row],
    compressors: list[dict[str, Any]],
    literature: dict[str, float],
    most: float,
) -> float:
    """Draw each model, compressor and published entropy as a named point; return their top.

    What lies above `most` would squeeze all others together: its point is there, its label true.
    """
    models = zip(rows, colours(len(rows)), strict=True)
    points = [
        (row["streaming"]["holdout"]["bits_per_char"], row["model"], colour, "o")
        for row, colour in models
    ]
    points += [
        (row["holdout"]["bits_per_char"], f"{row['name']} (compressor)", "0.3", "D")
        for row in compressors
    ]
    points += [(bits, title, PALE, "_") for title, bits in literature.items()]
    points.sort(key=lambda point: point[:2])
    top = 1.03 * min(points[-1][0], most) or 1.0  # a text of one symbol costs nothing
    heights = spread([min(bits, most) for bits, *_ in points], top / MOST_LABELS)
    for (bits, title, colour, marker), height in zip(points, heights, strict=True):
        level = min(bits, most)
        published = marker == "_"
        axes.plot(0, level, marker, color=colour, clip_on=False)
        axes.annotate(
            f"{title}: {bits:g}" if published else f"{title} {bits:.3f}",
            (0, level),
            (0.25, height),
            va="center",
            fontsize="small",
            color=GREY if published else "black",
            arrowprops={"arrowstyle": "-", "color": colour, "relpos": (0, 0.5), "shrinkA": 0},
        )
    axes.set_xlim(-0.1, 2)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
    return float(max(top, heights[-1]))


def spread(levels: list[float], gap: float) -> list[float]:
    """Return heights for labels of ascending levels, moved up where they would overlap.

    >>> spread([1.0, 1.1, 3.0], 0.5)
    [1.0, 1.5, 3.0]
    """
    heights: list[float] = []
    for level in levels:
        heights.append(max(level, heights[-1] + gap) if heights else level)
    return heights


def start_picture(results: list[Result], uniform: float) -> str:
    """Return where training starts and ends: spread of the logits against the loss, both log.

    Args:
        results: in the order of the leaderboard.
        uniform: nats per character of a uniform guess.
    """
    figure, axes = single_axes()
    style(axes, log=True)
    axes.axhline(uniform, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"uniform guess: {uniform:.2f} nats",
        (0.99, uniform),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
    )
    for result, colour in zip(results, colours(len(results)), strict=True):
        if not result.activations:
            continue
        start, end = (
            _logits_and_loss(result.activations[moment]) for moment in ("initial", "trained")
        )
        arrow = {"arrowstyle": "->", "color": colour, "alpha": 0.7}
        axes.annotate("", end, start, arrowprops=arrow)
        axes.plot(*start, "o", color=colour, markerfacecolor="none", label=result.name)
        axes.plot(*end, "o", color=colour)
    axes.set_xlabel("standard deviation of the logits")
    axes.set_ylabel("training loss, nats per character")
    figure.legend(loc="outside right upper", frameon=False)
    return as_svg(figure, "start")


def _logits_and_loss(activations: dict[str, Any]) -> tuple[float, float]:
    """Return the standard deviation of the logits, and the loss in nats per character."""
    output = next(layer for layer in activations["layers"] if layer["layer"] == "output")
    return output["sd"], activations["nats_per_char"]
