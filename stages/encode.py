"""Encode the corpus as ids and split it."""

from pathlib import Path

import click

from charlm.cli import one_line_errors, progress
from charlm.config import params
from charlm.data import encoding

CORPUS, OUTPUT = Path("data/raw/corpus.txt"), Path("data/encoded")


@click.command()
@one_line_errors
def main() -> None:
    """Write data/encoded/: vocabulary.json and train, validation and test as .npy arrays.

    The split is contiguous: the holdout (validation, then test) is the end of the text. The text is
    read in chunks, so it may be larger than memory.

    \b
    Example:
      charlm encode
    """
    settings = params.load()
    size = CORPUS.stat().st_size if CORPUS.is_file() else 0
    with progress(2 * size, "B", "encoding") as bar:
        found = encoding.scan(CORPUS, bar.update)
        lengths = encoding.lengths(found.characters, settings.split)
        for run in settings.runs.values():
            encoding.check_lengths(lengths, run)
        unseen = encoding.encode(CORPUS, found.vocabulary, lengths, OUTPUT, bar.update)
    if unseen:
        click.echo(
            f"vocabulary: {len(unseen)} symbols are in the holdout only, so no model can "
            f"learn them: {unseen!r}",
            err=True,
        )
    sizes = ", ".join(f"{split} {length:,}" for split, length in lengths.items())
    click.echo(f"encoded: {len(found.vocabulary)} symbols; characters: {sizes}", err=True)


if __name__ == "__main__":
    main()
