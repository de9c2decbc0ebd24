"""The command `check`: params.yaml before anything runs."""

from pathlib import Path

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data.corpus import NO_PATH
from charlm.errors import UserError

SMALL = 1 << 20
"""Bytes of an own text up to which it is read by the check; a longer one is long enough."""


@click.command()
@click.argument("file", default="params.yaml", type=click.Path(path_type=Path))
@one_line_errors
def main(file: Path) -> None:
    """Say in one line what is wrong with FILE (params.yaml), or nothing.

    \b
    Example:
      charlm check
    """
    check_file(file)


def check_file(file: Path) -> params.Params:
    """Return the checked content of params.yaml, its own text checked too if there is one.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    settings = params.load(file)
    path = settings.corpus.path
    if path == NO_PATH:
        return settings
    if not Path(path).is_file():
        raise UserError(f"{file}: corpus.path: no such file: {path}")
    if Path(path).stat().st_size <= SMALL:
        check_own_text(settings, Path(path))
    return settings


def check_own_text(settings: params.Params, path: Path) -> None:
    """Refuse a text that is not UTF-8 or too short for some model, before any other is trained.

    Raises:
        UserError: what is wrong with it.
    """
    # numpy takes longer to import than the rest of the check, and most runs have no own text.
    from charlm.data import encoding

    lengths = encoding.lengths(encoding.scan(path).characters, settings.split)
    for run in settings.runs.values():
        encoding.check_lengths(lengths, run)


if __name__ == "__main__":
    main()
