"""What `make repro` ends with: the leaderboard and where to look next."""

from pathlib import Path

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.files import read_json
from charlm.report.leaderboard import (
    Row,
    Times,
    format_seconds,
    local_times,
    recorded_times,
    total_seconds,
    training_keys,
)

LEADERBOARD = Path("reports/leaderboard.json")
MODELS, ENCODED, TIMINGS = Path("models"), Path("data/encoded"), Path(".timings")
RECORDED = Path("benchmarks/training_time.json")

COLUMNS = {
    "validation": ("streaming", "validation"),
    "test": ("streaming", "test"),
    "test, own block": ("windowed", "test"),
    "test, 256": ("windowed_256", "test"),
}
"""Losses that the table shows: by heading, the protocol and the part of the text."""


def as_text(rows: list[Row], local: Times, recorded: Times) -> str:
    """Return the leaderboard as a table for a terminal.

    Args:
        rows: the leaderboard.
        local: what trainings took on this machine.
        recorded: what the same trainings took where they were recorded.
    """
    members = {row["model"]: row["members"] for row in rows if row["members"]}
    width = max(len("model"), *(len(row["model"]) for row in rows))
    headings = "  ".join(f"{heading:<{_width(heading)}}" for heading in COLUMNS)
    lines = [
        f"{'bits per character':{width + 12}}  {'streaming':<22}  windowed",
        f"{'model':{width}}  parameters  {headings}  training",
    ]
    marked = False
    for row in rows:
        losses = "  ".join(
            f"{_loss(row[protocol], part):<{_width(heading)}}"
            for heading, (protocol, part) in COLUMNS.items()
        )
        took, mark = total_seconds(row["model"], members, local.seconds), ""
        if took is None:
            took, mark = total_seconds(row["model"], members, recorded.seconds), " *"
            marked = marked or took is not None
        time = "-" if took is None else f"{format_seconds(took)}{mark}"
        lines.append(f"{row['model']:{width}}  {row['parameters']:10,}  {losses}  {time}")
    return "\n".join([*lines, _origins(local, recorded if marked else Times({}, ""))])


def _loss(parts: dict[str, dict[str, float]] | None, part: str) -> str:
    """Return a loss; an ensemble is scored streaming only."""
    return f"{parts[part]['bits_per_char']:.4f}" if parts else "-"


def _width(heading: str) -> int:
    """Return the width of a column, which holds a loss such as 12.3456."""
    return max(len(heading), len("12.3456"))


def _origins(local: Times, recorded: Times) -> str:
    """Return the line that says where the seconds of the table come from."""
    parts = []
    if local.seconds:
        parts.append(f"on this machine ({local.origin})")
    if recorded.seconds:
        parts.append(f"* recorded on {recorded.origin}")
    return f"training: {'; '.join(parts) or 'no seconds are known of these trainings'}"


def first_experiment(settings: params.Params) -> str:
    """Return a command that takes a fifth of the steps, of the bigram or the first with steps."""
    trained = [run for run in settings.runs.values() if run.training.steps]
    run = settings.runs.get("bigram") or (trained[0] if trained else None)
    if run is None:
        return "dvc exp run -S sampling.temperature=0.5"
    name = run.entry
    steps = settings.models[name].training.steps or 1
    return f"dvc exp run -S models.{name}.{settings.scale}.steps={max(1, steps // 5)}"


@click.command()
@one_line_errors
def main() -> None:
    """Print reports/leaderboard.json as a table, and what to try next.

    \b
    Example:
      charlm summary
    """
    show()


def show() -> None:
    """Print reports/leaderboard.json as a table, and what to try next.

    Raises:
        UserError: it is missing or damaged.
    """
    rows, keys = read_json(LEADERBOARD), training_keys(MODELS, ENCODED)
    click.echo(as_text(rows, local_times(TIMINGS, keys), recorded_times(RECORDED, keys)))
    experiment = first_experiment(params.load())
    click.echo(
        "\n"
        "Look next at:\n"
        "  reports/report.html                      curves, the entropy ladder, samples\n"
        "  make ui                                  every run in MLflow\n"
        "  source .venv/bin/activate                then a first experiment, and how it compares:\n"
        f"  {experiment}\n"
        "  charlm experiments"
    )


if __name__ == "__main__":
    main()
