"""The command `check`: params.yaml before anything runs."""

from pathlib import Path

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data.corpus import NO_PATH
from charlm.errors import UserError

SMALL = 1 << 28
"""Bytes of an own text up to which it is read by the check; a longer one is long enough."""

LARGE = 1 << 28
"""Bytes of a prediction of every character from which the check looks whether all fits in memory;
it takes seconds."""


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
    """Refuse a text that is not UTF-8, too short for some model, or too large for the memory.

    Raises:
        UserError: what is wrong with it.
    """
    # numpy takes longer to import than the rest of the check, and most runs have no own text.
    from charlm.data import encoding

    found = encoding.scan(path)
    lengths = encoding.lengths(found.characters, settings.split)
    for run in settings.runs.values():
        encoding.check_lengths(lengths, run)
    if 2 * found.characters * len(found.vocabulary) > LARGE:
        check_memory(settings, lengths, found.vocabulary.symbols)


def check_memory(settings: params.Params, lengths: dict[str, int], symbols: str) -> None:
    """Refuse a text of which some run or ensemble would need more memory than there is.

    Args:
        settings: params.yaml.
        lengths: characters of each split.
        symbols: of its vocabulary.

    Raises:
        UserError: the numbers of the first that does not fit, and how to leave out all of them.
    """
    import torch

    from charlm import saved_model
    from charlm.evaluation import ensemble
    from charlm.training import memory

    refused: dict[str, str] = {}
    for name in settings.names:
        try:
            if name in settings.ensembles:
                targets = lengths["validation"] + lengths["test"]
                ensemble.check_memory(name, targets, len(symbols))
                continue
            run = settings.run(name)
            with torch.device("meta"):
                model = saved_model.Config.of(run, symbols).build()
            characters = sum(lengths.values()) if run.text == "all" else lengths["train"]
            memory.check(name, model, run.training, characters, len(symbols))
        except UserError as error:
            refused[name] = str(error)
    if refused:
        first = next(iter(refused.values()))
        others = f" ({', '.join([*refused][1:])} do not fit either)" if len(refused) > 1 else ""
        raise UserError(f"{first}{others}, or leave out: {settings.leaving_out(*refused)}")


if __name__ == "__main__":
    main()
