"""Gather all results into the leaderboard and the report."""

import tempfile
from pathlib import Path
from typing import Any

import click

from charlm import tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.files import project_root, read_json, write_json, write_text

MODELS, RESULTS, OUTPUT = Path("models"), Path("results"), Path("reports")
TIMES = Path("benchmarks/training_time.json")


@click.command()
@one_line_errors
def main() -> None:
    """Write page.html, leaderboard.json and what DVC shows and plots, into reports/.

    Evaluation and sample are also added to the MLflow runs that trained the models.

    \b
    Example:
      python -m stages.report
    """
    settings = params.load()
    # MLflow is imported by a process beside this one while the page is drawn here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    from charlm.report import page
    from charlm.tracking import track

    # A reproduction has seen the holdout: it is in the table of sources and in no ranking.
    results = [
        page.read_result(
            RESULTS / name,
            trained=name in settings.by_steps,
            mixed=name in settings.mixtures,
            adapts=name in settings.adaptive,
        )
        for name in settings.ranked
    ]
    recorded = read_json(TIMES)
    times = recorded["seconds"] if recorded["scale"] == settings.scale else {}
    repeats: dict[str, list[Any]] = {}
    for name, copied in settings.repeats.items():
        repeats.setdefault(copied.entry, []).append(read_json(RESULTS / name / "metrics.json"))
    rows = page.leaderboard(results, times, repeats)
    write_json(OUTPUT / "leaderboard.json", rows)
    # One number a model: `dvc metrics show` and `dvc exp show` make a column of each.
    bits = {row["model"]: row["streaming"]["validation"]["bits_per_char"] for row in rows}
    write_json(OUTPUT / "validation_bits_per_char.json", bits)
    write_json(OUTPUT / "curves.json", page.joined_curves(results))
    machine = recorded["machine"] if times else ""
    entropy = read_json(RESULTS / "entropy.json")
    write_json(OUTPUT / "ladder.json", page.ladder(rows, entropy))
    sources = read_json(OUTPUT / "sources.json")
    html = page.page(results, rows, entropy, sources, machine, settings.scale)
    write_text(OUTPUT / "report.html", html)
    best = rows[0]["streaming"]["validation"]["bits_per_char"]
    click.echo(
        f"report: {OUTPUT / 'report.html'}; best of {len(rows)}: {rows[0]['model']}, "
        f"{best:.4f} bits per character (validation, streaming)",
        err=True,
    )
    # What later stages found goes to each model's run, and the whole to the pipeline's.
    with tempfile.TemporaryDirectory() as scratch:
        for name in settings.entries:
            tracker.attach(
                tracking.weights_digest(MODELS / name),
                tracking.evaluation_metrics(RESULTS / name / "metrics.json"),
                track.results_of(name, settings, Path(scratch)),
            )
        tracker.summarise(
            {f"validation_bits.{name}": value for name, value in bits.items()}
            | tracking.entropy_metrics(RESULTS / "entropy.json"),
            [OUTPUT / "leaderboard.json", OUTPUT / "report.html", RESULTS / "entropy.json"],
        )
        tracker.wait()


if __name__ == "__main__":
    main()
