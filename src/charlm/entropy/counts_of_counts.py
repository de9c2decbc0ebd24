"""Frequency spectra of n-grams: how many of them occur once, twice, ..., for texts of any size.

An entropy needs no more of the n-grams than how many occur how often. Here they are counted exactly
without being kept. The codes of all n-grams (numbers in base V) are taken from the text range by
range, so many at a time as there is room for; each range is sorted, equal codes are counted, and
the counts are counted. Shorter n-grams are the prefixes of longer ones and ascend with them, so one
stream gives every order. Time is linear in the text, but for one look at it a range.

Shapes: N characters, G distinct n-grams, K different counts.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.counting import Ints, grams

ROOM_BYTES = 1280 << 20
"""Memory for the codes of one range."""

CHUNK = 1 << 17
"""Characters that codes are computed of at a time: they stay in the processor's cache."""

SAMPLED = 16
"""Of so many chunks one is looked at to find ranges."""

MARGIN = 0.05
"""Share of the room that ranges leave free, because they are found by a sample."""

SORTED_CHUNK = 1 << 20
"""Sorted codes that are counted at a time."""

BINS = 1 << 16
"""Equal parts of the codes, which ranges are put together from."""

SMALL = 1 << 12
"""Counts below it are counted in a table, the few others one by one."""

Codes = NDArray[np.uint32 | np.uint64]


@dataclass(frozen=True)
class Spectrum:
    """The counts of one order.

    Attributes:
        order: n, in characters.
        values_K: the different counts of n-grams, ascending.
        how_many_K: how many n-grams have each.
        context_values: the same of the first n - 1 characters of these very n-grams.
        context_how_many: how many contexts have each.
    """

    order: int
    values_K: Ints
    how_many_K: Ints
    context_values: Ints
    context_how_many: Ints


def highest_order(vocabulary: int) -> int:
    """Return the longest n-grams whose codes fit 64 bits."""
    return max(order for order in range(1, 65) if vocabulary**order <= 1 << 64)


def in_memory(ids_N: NDArray[np.integer], vocabulary: int, orders: list[int]) -> list[Spectrum]:
    """Return the spectra of some orders of a text, with all n-grams in memory, of any order.

    Args:
        ids_N: the text, integers in [0, vocabulary).
        vocabulary: number of symbols.
        orders: ascending; those longer than the text are left out.
    """
    results = []
    shorter_N = np.zeros(len(ids_N) + 1, dtype=np.int64)
    for order, found in enumerate(grams(ids_N, vocabulary, orders[-1]), start=1):
        if order in orders:
            # The contexts of these very n-grams: the last n - 1 characters are none of them.
            counts_C = np.bincount(shorter_N[: len(found.ranks_N)])
            counted = (
                np.unique(counts, return_counts=True)
                for counts in (found.counts_G, counts_C[counts_C > 0])
            )
            (values, how_many), (context_values, context_how_many) = counted
            results.append(Spectrum(order, values, how_many, context_values, context_how_many))
        shorter_N = found.ranks_N
    return results


def streamed(
    parts: Sequence[NDArray[np.integer]],
    vocabulary: int,
    order: int,
    room_bytes: int = ROOM_BYTES,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Spectrum]:
    """Return the spectra of orders 1 to `order` of a text, in bounded memory.

    Args:
        parts: the text in pieces, integers in [0, vocabulary); arrays that are mapped from files
            are read from these, a chunk at a time.
        vocabulary: number of symbols, V.
        order: n of the longest; no more than `highest_order` and the text's length.
        room_bytes: memory for codes.
        advance: called with the number of n-grams just counted.
    """
    kind = np.uint32 if vocabulary**order <= 1 << 32 else np.uint64
    levels = [_Level(n, vocabulary) for n in range(1, order + 1)]
    for level, below in zip(levels[1:], levels, strict=False):
        level.below = below
    tail = _tail(parts, order)
    for level in levels:
        level.watch(tail)
    room = room_bytes // np.dtype(kind).itemsize
    total = sum(map(len, parts)) - order + 1
    buffer: Codes = np.empty(min(room, total), dtype=kind)
    for low, high in _ranges(parts, vocabulary, order, kind, room, total):
        for codes, counts in _sorted_runs(parts, vocabulary, order, low, high, buffer):
            levels[-1].take(codes, counts)
            advance(len(codes) if counts is None else int(counts.sum()))
    levels[-1].end()
    results = []
    contexts: tuple[Ints, Ints] = (np.array([total + order - 1]), np.array([1]))
    for level in levels:
        for code in level.tail[:-1]:
            level.add(code)
        # Contexts of the next order: all but the last n-gram of the text.
        without_last = level.spectrum()
        for code in level.tail[-1:]:
            level.add(code)
        results.append(Spectrum(level.order, *level.spectrum(), *contexts))
        contexts = without_last
    return results


class _Level:
    """The n-grams of one order, which come in ascending order, equal ones together."""

    def __init__(self, order: int, vocabulary: int) -> None:
        self.order = order
        self.below: _Level | None = None
        self.tail: list[int] = []
        self._vocabulary = vocabulary
        self._held: tuple[int, int] | None = None
        self._small = np.zeros(SMALL, dtype=np.int64)
        self._large: Counter[int] = Counter()
        self._watched: dict[int, int] = {}

    def watch(self, tail: list[int]) -> None:
        """Remember how often the n-grams occur with which no n-gram of the highest order begins.

        Args:
            tail: ids of the last characters of the text, one less than the highest order.
        """
        for start in range(len(tail) - self.order + 1):
            code = 0
            for symbol in tail[start : start + self.order]:
                code = code * self._vocabulary + symbol
            self.tail.append(code)
        self._watched = dict.fromkeys(self.tail, 0)

    def take(self, codes: Codes, counts: Ints | None) -> None:
        """Count the next codes; `counts` says how often each stands for, once if None."""
        firsts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
        firsts = np.concatenate([[0], firsts])
        if counts is None:
            counts_G = np.diff(firsts, append=len(codes))
        else:
            counts_G = np.add.reduceat(counts, firsts)
        codes_G = codes[firsts]
        # The last n-gram may go on in the next chunk, so it waits.
        if self._held is not None:
            code, count = self._held
            if code == codes_G[0]:
                counts_G[0] += count
            else:
                codes_G = np.concatenate([np.array([code], dtype=codes.dtype), codes_G])
                counts_G = np.concatenate([[count], counts_G])
        self._held = int(codes_G[-1]), int(counts_G[-1])
        self._count(codes_G[:-1], counts_G[:-1])

    def end(self) -> None:
        """Count the n-gram that waits, here and below."""
        if self._held is not None:
            code, count = self._held
            self._held = None
            self._count(np.array([code], dtype=np.uint64), np.array([count]))
        if self.below is not None:
            self.below.end()

    def _count(self, codes_G: Codes, counts_G: Ints) -> None:
        if not len(codes_G):
            return
        small_G = counts_G < SMALL
        self._small += np.bincount(counts_G[small_G], minlength=SMALL)
        self._large.update(counts_G[~small_G].tolist())
        for code in self._watched:
            place = int(np.searchsorted(codes_G, codes_G.dtype.type(code)))
            if place < len(codes_G) and codes_G[place] == code:
                self._watched[code] = int(counts_G[place])
        if self.below is not None:
            self.below.take(codes_G // codes_G.dtype.type(self._vocabulary), counts_G)

    def add(self, code: int) -> None:
        """Count one n-gram more; it must be watched."""
        count = self._watched[code]
        self._watched[code] += 1
        for value, change in ((count, -1), (count + 1, 1)):
            if 0 < value < SMALL:
                self._small[value] += change
            elif value:
                self._large[value] += change

    def spectrum(self) -> tuple[Ints, Ints]:
        """Return the different counts, ascending, and how many n-grams have each."""
        values = np.flatnonzero(self._small)
        large = sorted((value, many) for value, many in self._large.items() if many)
        more = np.array(large, dtype=np.int64).reshape(-1, 2)
        return (
            np.concatenate([values, more[:, 0]]),
            np.concatenate([self._small[values], more[:, 1]]),
        )


def _tail(parts: Sequence[NDArray[np.integer]], order: int) -> list[int]:
    """Return the ids of the last order - 1 characters."""
    ids: list[int] = []
    for part in reversed(parts):
        missing = order - 1 - len(ids)
        ids = [int(symbol) for symbol in part[max(0, len(part) - missing) :]] * bool(missing) + ids
    return ids


def chunks(
    parts: Sequence[NDArray[np.integer]], order: int, every: int = 1
) -> Iterator[NDArray[np.integer]]:
    """Yield a text in chunks that share order - 1 characters, so that each n-gram is in one.

    Args:
        parts: the text in pieces.
        order: n.
        every: only one of so many chunks is yielded, for a sample.
    """
    before = parts[0][:0]
    for part in parts:
        for start in range(0, len(part), CHUNK * every):
            stop = min(start + CHUNK, len(part))
            new: NDArray[Any] = part[start:stop]
            if isinstance(part, np.memmap) and part.filename is not None:
                # Pages of a mapped file would count as this process's memory.
                place = part.offset + start * part.itemsize
                new = np.fromfile(part.filename, part.dtype, stop - start, offset=place)
            chunk = np.concatenate([before, new])
            if len(chunk) >= order:
                yield chunk
            before = chunk[max(0, len(chunk) - order + 1) :]


def _codes(ids: NDArray[np.integer], vocabulary: int, order: int, kind: type) -> Codes:
    """Return the code of each n-gram of a chunk."""
    # Converted once: an addition of unlike types would convert a few elements at a time.
    symbols: Codes = ids.astype(kind)
    count = len(ids) - order + 1
    codes = symbols[:count].copy()
    for place in range(1, order):
        codes *= kind(vocabulary)
        codes += symbols[place : place + count]
    return codes


def _ranges(
    parts: Sequence[NDArray[np.integer]],
    vocabulary: int,
    order: int,
    kind: type,
    room: int,
    total: int,
) -> list[tuple[int, int]]:
    """Return ranges of codes, first and last, that hold about as many n-grams as there is room for.

    How many that is, a part of the text says. A range that holds more than the room is counted in
    pieces.
    """
    last = vocabulary**order - 1
    if total <= room:
        return [(0, last)]
    shift = max(0, last.bit_length() - BINS.bit_length() + 1)
    held = np.zeros(BINS)
    for ids in chunks(parts, order, SAMPLED):
        codes = _codes(ids, vocabulary, order, kind)
        held += np.bincount((codes >> kind(shift)).astype(np.int64), minlength=BINS)
    held *= total / held.sum()
    # As equal as can be, with a margin for what the sample cannot know.
    room = int(total / math.ceil(total / (room * (1 - MARGIN))) * (1 + MARGIN / 2))
    ranges, first, inside = [], 0, 0
    for place in range(BINS):
        if inside and held[place] and inside + held[place] > room:
            ranges.append((first << shift, (place << shift) - 1))
            first, inside = place, 0
        inside += held[place]
    return [*ranges, (first << shift, last)]


def _sorted_runs(
    parts: Sequence[NDArray[np.integer]],
    vocabulary: int,
    order: int,
    low: int,
    high: int,
    buffer: Codes,
) -> Iterator[tuple[Codes, Ints | None]]:
    """Yield the codes from `low` to `high` in ascending order, with their counts if not one each.

    A range that is larger than the buffer has one part of the codes that cannot be cut: text of few
    different n-grams. Each filling of the buffer is then reduced to its different codes.
    """
    kind, width = buffer.dtype.type, high - low
    reduced: list[tuple[Codes, Ints]] = []
    filled = 0
    for ids in chunks(parts, order):
        codes = _codes(ids, vocabulary, order, kind)
        if width < vocabulary**order - 1:
            codes = codes[codes - kind(low) <= kind(width)]
        while len(codes):
            if filled == len(buffer):
                buffer.sort()
                reduced.append(np.unique(buffer, return_counts=True))
                filled = 0
            fitting = codes[: len(buffer) - filled]
            buffer[filled : filled + len(fitting)] = fitting
            filled += len(fitting)
            codes = codes[len(fitting) :]
    held = buffer[:filled]
    held.sort()
    if reduced:
        reduced.append(np.unique(held, return_counts=True))
        codes = np.concatenate([codes for codes, _ in reduced])
        counts = np.concatenate([counts for _, counts in reduced])
        ordered = np.argsort(codes, kind="stable")
        yield codes[ordered], counts[ordered]
    else:
        for start in range(0, filled, SORTED_CHUNK):
            yield held[start : start + SORTED_CHUNK], None
