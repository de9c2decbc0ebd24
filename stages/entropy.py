"""Measure the text itself: n-gram entropies, held-out n-gram losses, compressors."""

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from charlm import compressors, encoding, entropy, kneser_ney, params
from charlm.cli import one_line_errors
from charlm.files import write_json, write_text
from charlm.vocabulary import Vocabulary

ENCODED, OUTPUT = Path("data/encoded"), Path("results")


@click.command()
@one_line_errors
def main() -> None:
    """Write results/entropy.json and results/entropy.csv.

    Entropies by four estimators of the whole text and of the training split, the loss of a
    smoothed n-gram of each order on text that it has not seen, and what compressors make of it.

    \b
    Example:
      python -m stages.entropy
    """
    orders = params.load().entropy.orders
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    whole = np.concatenate(list(splits.values()))
    texts: dict[str, dict[str, Any]] = {
        name: {"characters": len(ids), "orders": estimates(ids, vocabulary, orders)}
        for name, ids in (("whole", whole), ("train", splits["train"]))
    }
    held_out = held_out_losses(splits, vocabulary, orders)
    write_json(
        OUTPUT / "entropy.json",
        {
            "characters": len(whole),
            "symbols": len(vocabulary),
            "bytes_per_char": bytes_per_char(whole, vocabulary),
            "texts": texts,
            "held_out": held_out,
            "compressors": compressed(splits, vocabulary),
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


def bytes_per_char(ids: encoding.Ids, vocabulary: Vocabulary) -> float:
    """Return the mean length of a text's characters in UTF-8."""
    return float(vocabulary.bytes_of_ids[ids].mean())


def estimates(ids: encoding.Ids, vocabulary: Vocabulary, orders: list[int]) -> list[dict[str, Any]]:
    """Return the statistics of each order as JSON."""
    per_char = bytes_per_char(ids, vocabulary)
    return [asdict(order) for order in entropy.statistics(ids, len(vocabulary), orders, per_char)]


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
