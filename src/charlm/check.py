"""Check params.yaml before anything runs: `python -m charlm.check`."""

from pathlib import Path

import click

from charlm import params
from charlm.cli import one_line_errors
from charlm.corpus import NO_PATH
from charlm.errors import UserError


@click.command()
@click.argument("file", default="params.yaml", type=click.Path(path_type=Path))
@one_line_errors
def main(file: Path) -> None:
    """Say in one line what is wrong with FILE (params.yaml), or nothing.

    \b
    Example:
      python -m charlm.check
    """
    settings = params.load(file)
    path = settings.corpus.path
    if path != NO_PATH and not Path(path).is_file():
        raise UserError(f"{file}: corpus.path: no such file: {path}")


if __name__ == "__main__":
    main()
