"""What `make repro` ends with: the leaderboard and where to look next."""

from pathlib import Path
from typing import Any

import click

from charlm.cli import one_line_errors
from charlm.files import read_json


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return the leaderboard as a table for a terminal."""
    width = max(len("model"), *(len(row["model"]) for row in rows))
    lines = [
        f"{'bits per character':{width + 12}}  streaming              windowed",
        f"{'model':{width}}  parameters  validation  test       validation  test       training",
    ]
    for row in rows:
        bits = [
            row[way][split]["bits_per_char"]
            for way in ("streaming", "windowed")
            for split in ("validation", "test")
        ]
        seconds = row["training_seconds"]
        took = "-" if seconds is None else f"{seconds:.{0 if seconds >= 1 else 1}f} s"
        lines.append(
            f"{row['model']:{width}}  {row['parameters']:10,}  {bits[0]:<10.4f}  {bits[1]:<9.4f}  "
            f"{bits[2]:<10.4f}  {bits[3]:<9.4f}  {took}"
        )
    return "\n".join(lines)


@click.command()
@one_line_errors
def main() -> None:
    """Print reports/leaderboard.json as a table, and what to try next.

    \b
    Example:
      python -m charlm.report.summary
    """
    click.echo(as_text(read_json(Path("reports/leaderboard.json"))))
    click.echo(
        "\n"
        "Look next at:\n"
        "  reports/report.html                      curves, the entropy ladder, samples\n"
        "  make ui                                  every run in MLflow\n"
        "  source .venv/bin/activate                then a first experiment (a minute), and how\n"
        "  dvc exp run -S models.lstm.quick.steps=1000     it compares:\n"
        "  dvc exp show --only-changed"
    )


if __name__ == "__main__":
    main()
