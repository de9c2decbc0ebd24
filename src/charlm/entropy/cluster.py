"""Counts of counts from a Dask cluster: for texts whose n-grams one machine cannot hold.

Two group-bys for each order: how often does each n-gram occur, and how many occur so often? The
workers read the text themselves, so its folder must lie under the same path on all of them, and
they must have charlm. Dask is no dependency of charlm: `pip install -e '.[cluster]'`.

Shapes: N characters of a piece.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from charlm.entropy.counts_of_counts import CountsOfCounts, Ids, OrderCounts, codes
from charlm.errors import UserError

PIECE = 1 << 22
"""Characters that a task reads: 32 MB of codes."""

ANSWER_S = 10
"""Seconds that the scheduler may take to answer."""

Piece = list[tuple[str, str, int, int]]
"""Where the characters of a piece lie: file, type, offset in bytes and number of ids."""


def counted(
    parts: Sequence[Ids],
    vocabulary: int,
    order: int,
    address: str,
    advance: Callable[[int], object] = lambda count: None,
) -> list[OrderCounts]:
    """Count orders 1 to `order` of a text, as `counts_of_counts.streamed` does.

    Args:
        parts: the text in pieces, arrays mapped from files; integers in [0, vocabulary).
        vocabulary: number of symbols, V.
        order: n of the longest n-grams, at most `highest_order` and the text's length.
        address: of Dask's scheduler, tcp://HOST:PORT.
        advance: called with the number of n-grams just counted.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer, or has no workers, or the
            counting failed.
    """
    try:
        dd: Any = importlib.import_module("dask.dataframe")
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise UserError(f"--cluster needs {error.name}: pip install -e '.[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        raise UserError(f"--cluster: {address} does not answer: {error}") from None
    characters = sum(map(len, parts))
    results = []
    with client:
        workers = len(client.scheduler_info()["workers"])
        if not workers:
            raise UserError(f"--cluster: {address} has no workers: start `dask worker {address}`")
        for n in range(1, order + 1):
            frame = dd.from_map(read_codes, pieces(parts, n), vocabulary=vocabulary, order=n)
            contexts = CountsOfCounts(np.array([characters]), np.array([1]))  # the empty context
            try:
                if n > 1:
                    shorter = frame.assign(code=frame["code"] // vocabulary)
                    contexts = counts_of_counts(shorter, workers)
                results.append(OrderCounts(n, counts_of_counts(frame, workers), contexts))
            # Whatever a worker meets, a missing file or a missing charlm, is raised here.
            except Exception as error:
                line = " ".join(str(error).split())[:300]
                raise UserError(f"--cluster: {type(error).__name__}: {line}") from None
            advance((characters - n + 1) // order)
    return results


def counts_of_counts(frame: Any, workers: int) -> CountsOfCounts:
    """Return how many codes of a Dask frame occur how often.

    Args:
        frame: a row for each position of the text, with the columns `code` and `times`, 1.
        workers: of the cluster; each holds a part of the distinct codes.
    """
    occurrences = frame.groupby("code")["times"].sum(split_out=workers)
    table = occurrences.value_counts().compute().sort_index()
    return CountsOfCounts(table.index.to_numpy(dtype=np.int64), table.to_numpy(dtype=np.int64))


def pieces(parts: Sequence[Ids], order: int) -> list[Piece]:
    """Return where to read the text, in pieces that share order - 1 characters."""
    files = [(str(part.filename), part.dtype, int(part.offset), len(part)) for part in parts]  # type: ignore[attr-defined]
    total = sum(length for *_, length in files)
    found = []
    for start in range(0, total - order + 1, PIECE):
        stop = min(start + PIECE + order - 1, total)
        piece, at = [], 0
        for name, dtype, offset, length in files:
            first, last = max(start - at, 0), min(stop - at, length)
            if first < last:
                piece.append((name, dtype.str, offset + first * dtype.itemsize, last - first))
            at += length
        found.append(piece)
    return found


def read_codes(piece: Piece, vocabulary: int, order: int) -> Any:
    """Return the codes of a piece's n-grams as a frame, on a worker.

    Args:
        piece: where its characters lie.
        vocabulary: number of symbols, V.
        order: n.
    """
    import pandas as pd

    ids_N: Ids = np.concatenate(
        [np.fromfile(name, dtype, count, offset=offset) for name, dtype, offset, count in piece]
    )
    return pd.DataFrame({"code": codes(ids_N, vocabulary, order, np.dtype("u8")), "times": 1})
