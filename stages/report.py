"""Gather all results into the leaderboard and the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from charlm import tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.files import project_root, read_json, write_json, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

CORPUS, ENCODED = Path("data/raw/corpus.txt"), Path("data/encoded")
MODELS, RESULTS, OUTPUT = Path("models"), Path("results"), Path("reports")
RECORDED, IDEAS = Path("benchmarks/training_time.json"), Path("benchmarks/ideas.json")


@click.command()
@one_line_errors
def main() -> None:
    """Write report.html, leaderboard.json and what DVC shows and plots, into reports/.

    The results of evaluation and sampling are also added to the MLflow runs of the models.

    \b
    Example:
      charlm report
    """
    settings = params.load()
    # MLflow is imported by a process beside this one while the page is drawn here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    from charlm.evaluation import metrics
    from charlm.ideas import kinds
    from charlm.report import compare, details, ideas, leaderboard, page, published
    from charlm.tracking import track

    splits = encoding.load_splits(ENCODED)
    holdout = np.concatenate([splits["validation"], splits["test"]])
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    symbols = vocabulary.symbols

    validation = splits["validation"]
    line_end = symbols.find("\n")
    skipped = details.to_a_line(holdout, line_end, metrics.BEFORE, settings.excerpt)
    ways = details.groupings(
        kinds.KINDS,
        kinds.kinds(vocabulary.decode(validation)),
        splits["train"],
        validation,
        line_end,
    )

    def pieces(log_p_RV: "NDArray[Any]") -> list[float]:
        return leaderboard.pieces(log_p_RV, validation)

    def excerpt(log_p_RV: "NDArray[Any]") -> dict[str, Any]:
        # Of a large text there are log-probabilities of its first characters alone.
        at = skipped if len(log_p_RV) >= skipped + metrics.BEFORE + settings.excerpt else 0
        found = metrics.excerpt(log_p_RV[at:], holdout[at:], symbols, settings.excerpt)
        return found | {"first": at + found["first"]}

    def where(log_p_RV: "NDArray[Any]") -> dict[str, Any] | None:
        return details.details(log_p_RV, validation, ways)

    findings = page.Findings(
        text=settings.corpus.name,
        scale=settings.scale,
        results=[
            leaderboard.read_result(RESULTS, name, excerpt, where, pieces, settings.repeats(name))
            for name in settings.ranked
        ],
        entropy=read_json(RESULTS / "entropy.json"),
        published=published.table(settings, CORPUS, ENCODED, MODELS, RESULTS),
        times=leaderboard.recorded_times(RECORDED, leaderboard.training_keys(MODELS, ENCODED)),
        groupings=ways,
        ideas=ideas.load(IDEAS, encoding.describe(ENCODED)["digest"]),
    )
    tables = page.tables(findings)
    for name, table in tables.items():
        write_json(OUTPUT / name, table)
    write_text(OUTPUT / "report.html", page.page(findings, tables["leaderboard.json"]))
    bits = tables["validation_bits_per_char.json"]
    best, value = next(iter(bits.items()))
    click.echo(
        f"report: {OUTPUT / 'report.html'}; best on validation: {best}, {value:.4f} bits", err=True
    )
    for line in compare.since_baseline(bits):
        click.echo(line, err=True)
    # The results of later stages go to each model's MLflow run, and the whole to the pipeline's.
    for name in settings.names:
        tracker.attach(
            tracking.weights_digest(MODELS / name),
            tracking.evaluation_metrics(RESULTS / name / "metrics.json", MODELS / name),
            track.results_of(name),
        )
    tracker.summarise(
        {f"validation_bits.{name}": value for name, value in bits.items()}
        | tracking.entropy_metrics(RESULTS / "entropy.json"),
        [OUTPUT / "leaderboard.json", OUTPUT / "report.html", RESULTS / "entropy.json"],
    )
    tracker.wait()


if __name__ == "__main__":
    main()
