"""Measure the text itself: n-gram entropies, held-out n-gram losses, compressors."""

from pathlib import Path

import click

from charlm.cli import one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.entropy import measurements
from charlm.files import write_json, write_text

ENCODED, RESULTS = Path("data/encoded"), Path("results")


@click.command()
@click.option("--cluster", help="Let Dask count: address of its scheduler, tcp://HOST:8786.")
@one_line_errors
def main(cluster: str | None) -> None:
    """Write results/entropy.json and results/entropy.csv.

    They have the text's entropy by four estimators, the loss of n-gram models on text that they
    have not seen, and the sizes that compressors reach. A text of more than 4 million characters
    has its entropies to order 5 alone, in 2 GB of memory. A Dask cluster counts longer ones
    too; this folder must lie under the same path on its workers. `dvc commit -f entropy` keeps it.

    \b
    Examples:
      charlm entropy
      charlm entropy --cluster tcp://127.0.0.1:8786
    """
    splits = encoding.load_splits(ENCODED)
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    orders = measurements.countable(
        params.load().entropy.orders, splits, vocabulary, cluster is not None
    )
    characters = sum(map(len, splits.values()))
    if measurements.is_large(splits):
        click.echo(
            f"entropy: {characters:,} characters are more than {measurements.LARGE:,}: orders to "
            f"{orders[-1]} only, no held-out losses, no compressors",
            err=True,
        )
    with progress(characters + len(splits["train"]), "n-gram", "entropy") as bar:
        content = measurements.measure(splits, vocabulary, orders, bar.update, cluster)
    rows = measurements.table(content)
    write_json(RESULTS / "entropy.json", content)
    write_text(RESULTS / "entropy.csv", measurements.as_csv(rows))
    for row in rows:
        order, held_out = row["order"], row["held_out"]
        unseen = "" if held_out is None else f", {held_out:.4f} on unseen text"
        click.echo(
            f"n = {order:2}: H(X | {order - 1} previous) = {row['plug_in']:.4f} bits "
            f"by the text's own counts{unseen}",
            err=True,
        )


if __name__ == "__main__":
    main()
