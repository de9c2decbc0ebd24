"""What is measured of a text itself: the content of results/entropy.json and entropy.csv.

Shapes: T targets, V symbols.
"""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.encoding import Ids
from charlm.data.vocabulary import Vocabulary
from charlm.entropy import cluster, compressors, counts_of_counts, estimators
from charlm.errors import UserError
from charlm.ngrams import kneser_ney

LARGE, LARGE_ORDER = 4_000_000, 5
"""Characters above which n-grams are not kept in memory, and the longest that are then counted."""


def is_large(splits: dict[str, Ids]) -> bool:
    """Return whether a text is so long that only its shorter n-grams are counted."""
    return sum(map(len, splits.values())) > LARGE


def countable(
    orders: list[int], splits: dict[str, Ids], vocabulary: Vocabulary, on_cluster: bool = False
) -> list[int]:
    """Return those orders that are counted: of a large text, those up to 5.

    Args:
        orders: n of the n-grams, ascending.
        splits: ids of each split of the text.
        vocabulary: of the whole text. With more than 7,131 symbols the limit is 4, because the
            codes of order 5 exceed 64 bits.
        on_cluster: whether a cluster counts: then all orders whose codes fit 64 bits.

    Raises:
        UserError: none of the orders is counted.
    """
    if not is_large(splits) and not on_cluster:
        return orders
    highest = counts_of_counts.highest_order(len(vocabulary))
    if not on_cluster:
        highest = min(LARGE_ORDER, highest)
    counted = [order for order in orders if order <= highest]
    if not counted:
        raise UserError(
            f"params.yaml: entropy.orders: of {sum(map(len, splits.values())):,} characters with "
            f"{len(vocabulary):,} symbols only orders up to {highest} are counted"
        )
    return counted


def measure(
    splits: dict[str, Ids],
    vocabulary: Vocabulary,
    orders: list[int],
    advance: Callable[[int], object] = lambda count: None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Return the content of results/entropy.json.

    That is the entropy of the whole text and of the training split by each estimator, the loss of
    Kneser-Ney models on text that they were not fitted to, and what compressors need. A large text
    has entropies alone.

    Args:
        splits: ids of each split of the text.
        vocabulary: of the whole text.
        orders: as `countable` returns them.
        advance: called with the number of n-grams just counted.
        scheduler: of a Dask cluster that counts; None counts here.
    """
    whole, large = list(splits.values()), is_large(splits)
    return {
        "characters": sum(map(len, whole)),
        "symbols": len(vocabulary),
        "bytes_per_char": bytes_per_char(whole, vocabulary),
        "texts": {
            name: {
                "characters": sum(map(len, parts)),
                "orders": estimates(parts, vocabulary, orders, large, advance, scheduler),
            }
            for name, parts in (("whole", whole), ("train", whole[:1]))
        },
        "held_out": [] if large else held_out_losses(splits, vocabulary, orders),
        "compressors": [] if large else compressed_sizes(splits, vocabulary),
    }


def bytes_per_char(parts: list[Ids], vocabulary: Vocabulary) -> float:
    """Return the mean length of a text's characters in UTF-8."""
    counts_V = np.zeros(len(vocabulary), dtype=np.int64)
    for ids in counts_of_counts.chunks(parts, 1):
        counts_V += np.bincount(ids, minlength=len(vocabulary))
    return float(counts_V @ vocabulary.bytes_of_ids / counts_V.sum())


def estimates(
    parts: list[Ids],
    vocabulary: Vocabulary,
    orders: list[int],
    large: bool,
    advance: Callable[[int], object],
    scheduler: str | None,
) -> list[dict[str, Any]]:
    """Return the statistics of each order, of a text in pieces, as JSON."""
    symbols = len(vocabulary)
    if scheduler:
        counted = cluster.counted(parts, symbols, orders[-1], scheduler, advance)
    elif large:
        counted = counts_of_counts.streamed(parts, symbols, orders[-1], advance=advance)
    else:
        counted = counts_of_counts.in_memory(np.concatenate(parts), symbols, orders)
        advance(sum(map(len, parts)))
    counted = [row for row in counted if row.order in orders]
    statistics = estimators.statistics(counted, bytes_per_char(parts, vocabulary))
    return [asdict(row) for row in statistics]


def held_out_losses(
    splits: dict[str, Ids], vocabulary: Vocabulary, orders: list[int]
) -> list[dict[str, Any]]:
    """Return the loss of a Kneser-Ney model of each order, fitted to the training split."""
    train, validation, test = splits.values()
    counts = kneser_ney.counts(train, len(vocabulary), orders[-1])
    context, holdout = train[-orders[-1] :], np.concatenate([validation, test])
    bytes_T = vocabulary.bytes_of_ids[holdout]
    targets = {
        "validation": slice(None, len(validation)),
        "test": slice(len(validation), None),
        "holdout": slice(None),
    }
    rows = []
    for order in orders:
        nats_T = counts.model(order).nats(np.concatenate([context, holdout]), len(context))
        losses = {part: _loss(nats_T[where], bytes_T[where]) for part, where in targets.items()}
        rows.append({"order": order, **losses})
    return rows


def _loss(nats_T: NDArray[np.float64], bytes_T: NDArray[np.int64]) -> dict[str, float]:
    bits = float(nats_T.sum()) / math.log(2)
    return {
        "nats_per_char": float(nats_T.mean()),
        "bits_per_char": bits / len(nats_T),
        "bits_per_byte": bits / int(bytes_T.sum()),
    }


def compressed_sizes(splits: dict[str, Ids], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Return what each compressor needs for the whole text, and adds for its parts."""
    train, validation, test = (vocabulary.decode(ids) for ids in splits.values())
    texts = {
        "whole": train + validation + test,
        "holdout": validation + test,
        "validation": validation,
    }
    rows = []
    found = compressors.bits(train.encode(), validation.encode(), test.encode())
    for name, bits in found.items():
        sizes = {part: _size(bits[part], text) for part, text in texts.items()}
        rows.append({"name": name, **sizes})
    return rows


def _size(bits: int, text: str) -> dict[str, float]:
    characters, stored = len(text), len(text.encode())
    return {
        "nats_per_char": bits * math.log(2) / characters,
        "bits_per_char": bits / characters,
        "bits_per_byte": bits / stored,
        "compression_ratio": bits / stored / 8,
    }


def table(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return conditional bits per character by order: each estimator, and the held-out loss.

    Args:
        content: what `measure` returns.
    """
    held_out = {row["order"]: row["holdout"]["bits_per_char"] for row in content["held_out"]}
    rows = []
    for row in content["texts"]["whole"]["orders"]:
        bits = {
            name: estimate["conditional_bits_per_char"]
            for name, estimate in row["estimates"].items()
        }
        rows.append({"order": row["order"], **bits, "held_out": held_out.get(row["order"])})
    return rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows of the same keys as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
