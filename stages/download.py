"""Download the corpus from the first source that answers, and verify it."""

from pathlib import Path

import click

from charlm.cli import one_line_errors, progress
from charlm.config import params
from charlm.data import corpus
from charlm.errors import masked
from charlm.files import project_root

OUTPUT = Path("data/raw/corpus.txt")


@click.command()
@one_line_errors
def main() -> None:
    """Fetch the corpus of params.yaml into data/raw/corpus.txt.

    corpus.path, a file of your own, is used as it is. Otherwise corpus.sources are tried in their
    order, and what they give must have the size and checksum in params.yaml.

    \b
    Example:
      charlm download
    """
    wanted = params.load().corpus
    with progress(wanted.bytes or 0, "B", "download") as bar:
        source, digest = corpus.fetch(
            OUTPUT,
            wanted.path,
            wanted.sources,
            wanted.bytes,
            wanted.sha256,
            project_root(),
            bar.update,
        )
    size = OUTPUT.stat().st_size
    click.echo(f"corpus: {size:,} bytes from {masked(source)}, SHA-256 {digest}", err=True)


if __name__ == "__main__":
    main()
