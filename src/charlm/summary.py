"""What `make repro` ends with: the leaderboard and where to look next."""

from pathlib import Path

import click

from charlm import report
from charlm.cli import one_line_errors
from charlm.files import read_json


@click.command()
@one_line_errors
def main() -> None:
    """Print reports/leaderboard.json as a table, and what to try next.

    \b
    Example:
      python -m charlm.summary
    """
    click.echo(report.as_text(read_json(Path("reports/leaderboard.json"))))
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
