"""Encode the corpus as ids and split it."""

from pathlib import Path

import click

from charlm import encoding, params
from charlm.cli import one_line_errors

CORPUS, OUTPUT = Path("data/raw/corpus.txt"), Path("data/encoded")


@click.command()
@one_line_errors
def main() -> None:
    """Write data/encoded/: vocabulary.json and train, validation and test as .npy arrays.

    The split is contiguous: the holdout (validation, then test) is the end of the text.

    \b
    Example:
      python -m stages.encode
    """
    settings = params.load()
    encoded = encoding.encode(
        encoding.read_text(CORPUS), settings.split.train, settings.split.validation
    )
    lengths = {split: len(ids) for split, ids in encoded.splits.items()}
    for entry in settings.models.values():
        encoding.check_lengths(lengths, entry)
    encoding.save(encoded, OUTPUT)
    if encoded.unseen:
        click.echo(
            f"vocabulary: {len(encoded.unseen)} symbols are in the holdout only, so no model can "
            f"learn them: {encoded.unseen!r}",
            err=True,
        )
    sizes = ", ".join(f"{split} {length:,}" for split, length in lengths.items())
    click.echo(f"encoded: {len(encoded.vocabulary)} symbols; characters: {sizes}", err=True)


if __name__ == "__main__":
    main()
