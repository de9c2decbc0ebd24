"""Compute the plug-in entropies of the corpus."""

import csv
import io
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from charlm import encoding, entropy, params
from charlm.cli import one_line_errors
from charlm.files import write_json, write_text
from charlm.vocabulary import Vocabulary

ENCODED, OUTPUT = Path("data/encoded"), Path("results")


@click.command()
@one_line_errors
def main() -> None:
    """Write results/entropy.json and results/entropy.csv: n-gram entropies of the whole text.

    \b
    Example:
      python -m stages.entropy
    """
    orders = params.load().entropy.orders
    ids = np.concatenate([encoding.load_split(ENCODED, split) for split in encoding.SPLITS])
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    bytes_per_char = float(vocabulary.bytes_of_ids[ids].mean())
    rows = [asdict(order) for order in entropy.statistics(ids, orders, bytes_per_char)]
    write_json(
        OUTPUT / "entropy.json",
        {
            "characters": len(ids),
            "symbols": len(vocabulary),
            "bytes_per_char": bytes_per_char,
            "plug_in": rows,
        },
    )
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(OUTPUT / "entropy.csv", table.getvalue())
    for row in rows:
        click.echo(
            f"n = {row['order']:2}: H_n / n = {row['bits_per_char']:.4f}, "
            f"H(X | {row['order'] - 1} previous) = {row['conditional_bits_per_char']:.4f} bits",
            err=True,
        )


if __name__ == "__main__":
    main()
