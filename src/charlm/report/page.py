"""The files of reports/: report.html and the tables that DVC shows and plots.

Everything in the page is text or inline SVG, so that the one file can be sent to somebody.
"""

import math
from dataclasses import dataclass
from typing import Any

from charlm.report import details, figures, ideas, leaderboard
from charlm.report.leaderboard import Result, Row, Times
from charlm.report.templating import render

CONFIDENTLY_WRONG = 0.5
"""Nats per character above a uniform guess from which an untrained model is named as such."""


@dataclass(frozen=True)
class Findings:
    """What the report is made from.

    Attributes:
        text: the name of the corpus.
        scale: of the training configurations in use.
        results: of the ranked models.
        entropy: content of results/entropy.json.
        published: the published figures of this text, with ours; None if there are none.
        times: the recorded seconds of training.
        groupings: the ways in which `details` of the results sort characters.
        ideas: what ideas gain on this text, as `charlm.report.ideas.load` returns it; None if
            nothing was recorded.
    """

    text: str
    scale: str
    results: list[Result]
    entropy: dict[str, Any]
    published: dict[str, Any] | None
    times: Times
    groupings: list[details.Grouping]
    ideas: dict[str, Any] | None = None


def tables(findings: Findings) -> dict[str, Any]:
    """Return what reports/ holds as JSON, by file name."""
    rows = leaderboard.rank(findings.results, findings.times.seconds)
    return {
        "leaderboard.json": rows,
        # One number per model: `dvc metrics show` and `dvc exp show` make a column of each.
        "validation_bits_per_char.json": {
            row["model"]: row["streaming"]["validation"]["bits_per_char"] for row in rows
        },
        "curves.json": leaderboard.join_curves(findings.results),
        "ladder.json": leaderboard.ladder(rows, findings.entropy),
        "published.json": findings.published or {},
    }


def page(findings: Findings, rows: list[Row]) -> str:
    """Return report.html.

    Args:
        findings: what it is made from.
        rows: the leaderboard.
    """
    by_name = {result.name: result for result in findings.results}
    results = [by_name[row["model"]] for row in rows]
    entropy, published = findings.entropy, findings.published
    uniform = math.log(entropy["symbols"])
    trained = [result for result in results if result.activations]
    starts = {each.name: each.activations["initial"]["nats_per_char"] for each in trained}
    return render(
        "report.html.j2",
        findings=findings,
        rows=rows,
        results=results,
        entropy=entropy,
        published=published,
        estimators=leaderboard.ESTIMATORS,
        held={row["order"]: row for row in entropy["held_out"]},
        uniform=uniform / math.log(2),
        symbol_entropy=leaderboard.symbol_entropy(entropy),
        ideas=ideas.section(findings.ideas) if findings.ideas else None,
        bars=leaderboard.bars(results, rows, entropy),
        confidently_wrong=CONFIDENTLY_WRONG,
        timed=any(row["training_seconds"] for row in rows),
        trained=trained,
        runs=[result.name for result in results if result.ensemble is None],
        wrong=[name for name, nats in starts.items() if nats > uniform + CONFIDENTLY_WRONG],
        given=details.GIVEN,
        detailed=[result for result in results if result.details],
        costly=costly(findings.groupings, results),
        excerpts={result.name: result.excerpt | learning(result) for result in results},
        # Their axes are logarithmic, and the losses on a text of one symbol are zero.
        curves=figures.learning_picture(results, rows) if trained and uniform else "",
        ladder=figures.ladder_picture(rows, entropy, published["literature"] if published else {}),
        start=figures.start_picture(results, uniform) if trained and uniform else "",
    )


def learning(result: Result) -> dict[str, Any]:
    """Return the `steps` of a model's training and the bits of its excerpt at each but the last.

    Nothing if the model was not watched, or not on all of the excerpt. The last step is that of the
    finished model.
    """
    first, length = result.excerpt["first"], len(result.excerpt["bits"])
    total = int(result.curve[-1]["step"]) if result.curve else 0
    points = zip(*(result.learning.get(key, []) for key in ("steps", "bits")), strict=True)
    rows = {step: bits[first : first + length] for step, bits in points if step < total}
    if not rows or any(len(bits) < length for bits in rows.values()):
        return {}
    return {"steps": [*rows, total], "learning": [*rows.values()]}


def costly(
    ways: list[details.Grouping], results: list[Result]
) -> tuple[str, str, float, float] | None:
    """Return the best model with details, and the kind of character that costs it most."""
    for result in results:
        if result.details and ways:
            return result.name, *details.most(ways[0], result.details["groups"][0])
    return None
