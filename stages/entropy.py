"""Measure the text itself: n-gram entropies, held-out n-gram losses, compressors."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from charlm.cli import one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.entropy import compressors, counts_of_counts, estimators
from charlm.errors import UserError
from charlm.files import write_json, write_text
from charlm.ngrams import kneser_ney

ENCODED, OUTPUT = Path("data/encoded"), Path("results")

LARGE, LARGE_ORDER = 4_000_000, 5
"""Characters above which n-grams are counted without keeping them, and the longest of these."""


@click.command()
@one_line_errors
def main() -> None:
    """Write results/entropy.json and results/entropy.csv.

    Entropies by four estimators of the whole text and of the training split, the loss of a
    smoothed n-gram of each order on text that it has not seen, and what compressors make of it.
    Of more than 4 million characters: entropies to order 5 alone, in 2 GB of memory.

    \b
    Example:
      python -m stages.entropy
    """
    orders = params.load().entropy.orders
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    parts = list(splits.values())
    characters = sum(map(len, parts))
    large = characters > LARGE
    if large:
        orders = [
            n
            for n in orders
            if n <= min(LARGE_ORDER, counts_of_counts.highest_order(len(vocabulary)))
        ]
        if not orders:
            raise UserError(
                f"params.yaml: estimators.orders: of more than {LARGE:,} characters with "
                f"{len(vocabulary):,} symbols only orders up to "
                f"{min(LARGE_ORDER, counts_of_counts.highest_order(len(vocabulary)))} are counted"
            )
        click.echo(
            f"entropy: {characters:,} characters are more than {LARGE:,}: orders to {orders[-1]} "
            "only, no held-out losses, no compressors",
            err=True,
        )
    texts: dict[str, dict[str, Any]] = {}
    with progress(characters + len(parts[0]), "n-gram", "entropy") as bar:
        for name, of in (("whole", parts), ("train", parts[:1])):
            texts[name] = {
                "characters": sum(map(len, of)),
                "orders": estimates(of, vocabulary, orders, large, bar.update),
            }
    held_out = [] if large else held_out_losses(splits, vocabulary, orders)
    write_json(
        OUTPUT / "entropy.json",
        {
            "characters": characters,
            "symbols": len(vocabulary),
            "bytes_per_char": bytes_per_char(parts, vocabulary),
            "texts": texts,
            "held_out": held_out,
            "compressors": [] if large else compressed(splits, vocabulary),
        },
    )
    rows = table(texts["whole"]["orders"], held_out)
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(OUTPUT / "entropy.csv", content.getvalue())
    for row in rows:
        held = row["held_out"]
        click.echo(
            f"n = {row['order']:2}: H(X | {row['order'] - 1} previous) = {row['plug_in']:.4f} bits "
            "by the text's own counts" + ("" if held is None else f", {held:.4f} on text unseen"),
            err=True,
        )


def bytes_per_char(parts: list[encoding.Ids], vocabulary: Vocabulary) -> float:
    """Return the mean length of a text's characters in UTF-8."""
    occurring = np.zeros(len(vocabulary), dtype=np.int64)
    for ids in counts_of_counts.chunks(parts, 1):
        occurring += np.bincount(ids, minlength=len(vocabulary))
    return float(occurring @ vocabulary.bytes_of_ids / occurring.sum())


def estimates(
    parts: list[encoding.Ids],
    vocabulary: Vocabulary,
    orders: list[int],
    large: bool,
    advance: Callable[[int], object],
) -> list[dict[str, Any]]:
    """Return the statistics of each order of a text in pieces as JSON."""
    symbols = len(vocabulary)
    if large:
        counted = counts_of_counts.streamed(parts, symbols, orders[-1], advance=advance)
        found = [row for row in counted if row.order in orders]
    else:
        found = counts_of_counts.in_memory(np.concatenate(parts), symbols, orders)
        advance(sum(map(len, parts)))
    return [asdict(row) for row in estimators.statistics(found, bytes_per_char(parts, vocabulary))]


def held_out_losses(
    splits: dict[str, encoding.Ids], vocabulary: Vocabulary, orders: list[int]
) -> list[dict[str, Any]]:
    """Return the loss of a Kneser-Ney model of each order, trained on the training split."""
    train, validation, test = splits.values()
    counts = kneser_ney.counts(train, len(vocabulary), orders[-1])
    ids = np.concatenate([train[-orders[-1] :], validation, test])
    first = len(ids) - len(validation) - len(test)
    parts = {
        "validation": slice(None, len(validation)),
        "test": slice(len(validation), None),
        "holdout": slice(None),
    }
    sizes = vocabulary.bytes_of_ids[ids[first:]]
    losses = []
    for order in orders:
        nats = counts.model(order).nats(ids, first)
        row: dict[str, Any] = {"order": order}
        for part, where in parts.items():
            bits = float(nats[where].sum()) / math.log(2)
            row[part] = {
                "nats_per_char": float(nats[where].mean()),
                "bits_per_char": bits / len(nats[where]),
                "bits_per_byte": bits / int(sizes[where].sum()),
            }
        losses.append(row)
    return losses


def compressed(splits: dict[str, encoding.Ids], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Return what each compressor needs for the whole text, and adds for the holdout."""
    train, validation, test = (vocabulary.decode(ids).encode() for ids in splits.values())
    characters = {
        "whole": sum(len(ids) for ids in splits.values()),
        "holdout": len(splits["validation"]) + len(splits["test"]),
    }
    sizes = {"whole": len(train + validation + test), "holdout": len(validation + test)}
    return [
        {
            "name": name,
            **{
                part: {
                    "nats_per_char": bits * math.log(2) / characters[part],
                    "bits_per_char": bits / characters[part],
                    "bits_per_byte": bits / sizes[part],
                    "compression_ratio": bits / sizes[part] / 8,
                }
                for part, bits in found.items()
            },
        }
        for name, found in compressors.bits(train, validation + test).items()
    ]


def table(orders: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return conditional bits per character by order: each estimator, and the held-out loss."""
    unseen = {row["order"]: row["holdout"]["bits_per_char"] for row in held_out}
    return [
        {
            "order": row["order"],
            **{
                name: found["conditional_bits_per_char"] for name, found in row["estimates"].items()
            },
            "held_out": unseen.get(row["order"]),
        }
        for row in orders
    ]


if __name__ == "__main__":
    main()
