"""The command `experiments`: DVC's table, of which only what differs is shown."""

import subprocess
import sys

import click

from charlm.cli import one_line_errors

FILES = r"^(benchmarks|data|models|reports|results|src|stages)(/.*)?$"
"""Columns that DVC has for files that stages depend on: digests, which say nothing to a person."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@one_line_errors
def main(options: tuple[str, ...]) -> None:
    """Show the experiments: the losses and the parameters in which they differ.

    It is `dvc exp show --only-changed` without the columns of files. OPTIONS are those of
    `dvc exp show`. Losses are validation bits per character, streaming.

    \b
    Examples:
      charlm experiments
      charlm experiments --sort-by lstm --all-commits
    """
    command = ["dvc", "exp", "show", "--no-pager", "--only-changed", "--drop", FILES, *options]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
