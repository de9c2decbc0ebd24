"""Counts of counts: how many n-grams occur once, twice, ..., for texts of any size.

An entropy needs no more of a text than that. `in_memory` keeps all n-grams and takes any order.
`streamed` counts as exactly in bounded memory:

1. The code of an n-gram is its number in base V, so that code // V is the code of its first n - 1
   characters.
2. The codes of the longest n-grams are split into ranges that fit into memory. A sample of the text
   says where.
3. For each range the text is read once. Its codes in the range are sorted, and equal codes are
   counted.
4. These distinct codes, divided by V, are those of the next shorter n-grams, and still ascend. So
   one pass gives every order.
5. The last characters of the text begin no n-gram of the highest order. The shorter n-grams that
   begin there are counted when all others have been.

Time is linear in the text, apart from reading it once for each range.

Shapes: N characters, G distinct n-grams, K different counts.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.counting import Ints, grams

MEMORY_BYTES = 1280 << 20
"""Memory for the codes of one range."""

CHUNK = 1 << 17
"""Characters that codes are computed of at a time: they stay in the processor's cache."""

SAMPLE_EVERY = 16
"""One of so many chunks is read to find ranges."""

MARGIN = 0.05
"""Share of the memory that ranges leave free, because a sample says how much they hold."""

BATCH = 1 << 19
"""Sorted codes that are counted at a time."""

BINS = 1 << 16
"""Equal parts of all codes. A range is made of whole bins."""

TABLE = 1 << 12
"""Counts below it are counted in a table, the few others in a dictionary."""

Ids = NDArray[np.integer]
Codes = NDArray[np.uint32 | np.uint64]
CodeType = np.dtype[np.uint32 | np.uint64]


class CountsOfCounts(NamedTuple):
    """How many n-grams occur how often.

    Attributes:
        counts_K: the different counts, ascending, each at least 1.
        frequencies_K: how many n-grams have each count.
    """

    counts_K: Ints
    frequencies_K: Ints


@dataclass(frozen=True)
class OrderCounts:
    """The counts of counts of one order.

    Attributes:
        order: n, in characters.
        ngrams: of all n-grams of the text.
        contexts: of their first n - 1 characters, over the same positions: the last n - 1
            characters of the text are left out.
    """

    order: int
    ngrams: CountsOfCounts
    contexts: CountsOfCounts


def highest_order(vocabulary: int) -> int:
    """Return the longest n-grams whose codes fit 64 bits."""
    return max(order for order in range(1, 65) if vocabulary**order <= 1 << 64)


def in_memory(ids_N: Ids, vocabulary: int, orders: list[int]) -> list[OrderCounts]:
    """Count with all n-grams in memory, to any order.

    Args:
        ids_N: the text, integers in [0, vocabulary).
        vocabulary: number of symbols, V.
        orders: ascending; those longer than the text are left out.
    """
    results = []
    context_ranks_N = np.zeros(len(ids_N) + 1, dtype=np.int64)
    for order, level in enumerate(grams(ids_N, vocabulary, orders[-1]), start=1):
        if order in orders:
            # The text's last n - 1 characters are no context: no character follows them.
            context_counts = np.bincount(context_ranks_N[: len(level.ranks_N)])
            ngrams = CountsOfCounts(*np.unique(level.counts_G, return_counts=True))
            contexts = CountsOfCounts(
                *np.unique(context_counts[context_counts > 0], return_counts=True)
            )
            results.append(OrderCounts(order, ngrams, contexts))
        context_ranks_N = level.ranks_N
    return results


def streamed(
    parts: Sequence[Ids],
    vocabulary: int,
    order: int,
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[int], object] = lambda count: None,
) -> list[OrderCounts]:
    """Count orders 1 to `order` of a text in bounded memory.

    Args:
        parts: the text in pieces, integers in [0, vocabulary). Arrays that are mapped from files
            are read from the files, a chunk at a time.
        vocabulary: number of symbols, V.
        order: n of the longest n-grams, at most `highest_order` and the text's length.
        memory_bytes: memory for codes.
        advance: called with the number of n-grams just counted.
    """
    text = _Text(parts, vocabulary, order)
    ending = text.last_ids(order - 1)
    tallies = [_Tally(codes(ending, vocabulary, n, text.dtype)) for n in range(1, order + 1)]
    for codes_G, counts_G in text.sorted_ngrams(memory_bytes // text.dtype.itemsize):
        _add_batch(tallies, vocabulary, codes_G, counts_G)
        advance(int(counts_G.sum()))
    _add_batch(tallies, vocabulary, np.empty(0, text.dtype), np.empty(0, np.int64), final=True)

    results = []
    contexts = CountsOfCounts(np.array([text.characters]), np.array([1]))  # the empty context
    for n, tally in enumerate(tallies, start=1):
        results.append(OrderCounts(n, tally.ngrams(), contexts))
        contexts = tally.contexts()
    return results


def chunks(parts: Sequence[Ids], order: int, every: int = 1) -> Iterator[Ids]:
    """Yield a text in chunks that share order - 1 characters, so that each n-gram is in one.

    Args:
        parts: the text in pieces.
        order: n.
        every: only one of so many chunks is yielded, for a sample.
    """
    overlap = parts[0][:0]
    for part in parts:
        for start in range(0, len(part), CHUNK * every):
            chunk = np.concatenate([overlap, _read(part, start, min(start + CHUNK, len(part)))])
            if len(chunk) >= order:
                yield chunk
            overlap = chunk[max(0, len(chunk) - order + 1) :]


class _Tally:
    """Counts of counts of one order, gathered from n-grams in ascending order.

    Args:
        ending: codes of the n-grams that begin in the last characters of the text, in their order.
            `add` is not given these occurrences.
    """

    def __init__(self, ending: Codes) -> None:
        self._ending = ending
        # How many n-grams have each count, by count. N-grams of the ending are left out: they occur
        # more often than `add` is given, so their counts stand apart, by code.
        self._table = np.zeros(TABLE, dtype=np.int64)
        self._large: Counter[int] = Counter()
        self._ending_counts: Counter[int] = Counter()
        # The last n-gram so far: more of its occurrences may come in the next batch.
        self._open_codes: Codes = np.empty(0, dtype=ending.dtype)
        self._open_counts: Ints = np.empty(0, dtype=np.int64)

    def add(self, codes_G: Codes, counts_G: Ints, final: bool) -> tuple[Codes, Ints]:
        """Add a batch of distinct n-grams; return those that are complete.

        Args:
            codes_G: ascending, the first not below the last of the batch before.
            counts_G: occurrences of each.
            final: nothing follows, so all are complete.
        """
        codes_G = np.concatenate([self._open_codes, codes_G])
        counts_G = np.concatenate([self._open_counts, counts_G])
        if len(codes_G) > 1 and codes_G[0] == codes_G[1]:
            counts_G[1] += counts_G[0]
            codes_G, counts_G = codes_G[1:], counts_G[1:]
        complete = len(codes_G) if final else len(codes_G) - 1
        self._open_codes, self._open_counts = codes_G[complete:], counts_G[complete:]
        codes_G, counts_G = codes_G[:complete], counts_G[:complete]
        if len(codes_G):
            self._count(codes_G, counts_G)
        return codes_G, counts_G

    def _count(self, codes_G: Codes, counts_G: Ints) -> None:
        """Count the counts of complete n-grams, at least one."""
        places = np.searchsorted(codes_G, self._ending)
        places = np.unique(places[codes_G.take(places, mode="clip") == self._ending])
        if len(places):
            codes, counts = codes_G[places].tolist(), counts_G[places].tolist()
            self._ending_counts.update(dict(zip(codes, counts, strict=True)))
            counts_G = np.delete(counts_G, places)
        small_G = counts_G < TABLE
        self._table += np.bincount(counts_G[small_G], minlength=TABLE)
        self._large.update(counts_G[~small_G].tolist())

    def ngrams(self) -> CountsOfCounts:
        """Return the counts of counts of the whole text."""
        return self._with(self._ending)

    def contexts(self) -> CountsOfCounts:
        """Return the same without the text's last n-gram, which no character follows."""
        return self._with(self._ending[:-1])

    def _with(self, ending: Codes) -> CountsOfCounts:
        """Return the counts of counts once these n-grams have occurred once more."""
        frequencies = Counter((self._ending_counts + Counter(ending.tolist())).values())
        small = np.flatnonzero(self._table)
        frequencies.update(dict(zip(small.tolist(), self._table[small].tolist(), strict=True)))
        frequencies.update(self._large)
        pairs = np.array(sorted(frequencies.items()), dtype=np.int64).reshape(-1, 2)
        return CountsOfCounts(pairs[:, 0], pairs[:, 1])


def _add_batch(
    tallies: list[_Tally], vocabulary: int, codes_G: Codes, counts_G: Ints, final: bool = False
) -> None:
    """Add a batch to the tally of the highest order, and what is complete to the next shorter."""
    for tally in reversed(tallies):
        codes_G, counts_G = tally.add(codes_G, counts_G, final)
        codes_G, counts_G = _distinct(codes_G // vocabulary, counts_G)


class _Text:
    """A text in pieces, as the codes of its n-grams of one order.

    Args:
        parts: the text in pieces.
        vocabulary: number of symbols, V.
        order: n.
    """

    def __init__(self, parts: Sequence[Ids], vocabulary: int, order: int) -> None:
        self._parts, self._vocabulary, self._order = parts, vocabulary, order
        self._last_code = vocabulary**order - 1
        self.characters = sum(map(len, parts))
        self.dtype: CodeType = np.dtype("u4" if vocabulary**order <= 1 << 32 else "u8")

    def last_ids(self, count: int) -> Ids:
        """Return the ids of the last characters."""
        ends = np.concatenate([part[max(0, len(part) - count) :] for part in self._parts])
        return ends[max(0, len(ends) - count) :]

    def sorted_ngrams(self, room: int) -> Iterator[tuple[Codes, Ints]]:
        """Yield the distinct n-grams with their counts in ascending order, in batches.

        The last n-gram of a batch may also be the first of the next.

        Args:
            room: codes that are kept in memory.
        """
        ngrams = self.characters - self._order + 1
        buffer: Codes = np.empty(min(room, ngrams), dtype=self.dtype)
        ranges = [(0, self._last_code)] if ngrams <= room else self._ranges(room, ngrams)
        for first, last in ranges:
            yield from self._sorted_range(first, last, buffer)

    def _codes(self, every: int = 1) -> Iterator[Codes]:
        """Yield the codes in the order of the text, those of one chunk of `every` at a time."""
        for ids in chunks(self._parts, self._order, every):
            yield codes(ids, self._vocabulary, self._order, self.dtype)

    def _ranges(self, room: int, ngrams: int) -> list[tuple[int, int]]:
        """Return ranges of codes, first and last, of about as many n-grams as there is room for.

        The number is estimated from a sample, so that a range may turn out larger.
        """
        shift = max(0, self._last_code.bit_length() - BINS.bit_length() + 1)
        sizes = np.zeros(BINS)
        for codes in self._codes(SAMPLE_EVERY):
            sizes += np.bincount((codes >> shift).astype(np.int64), minlength=BINS)
        sizes *= ngrams / sizes.sum()
        # As equal as can be, with a margin for what the sample cannot know.
        count = math.ceil(ngrams / (room * (1 - MARGIN)))
        limit = int(ngrams / count * (1 + MARGIN / 2))
        firsts, size = [0], 0.0
        for place in range(BINS):
            if size and sizes[place] and size + sizes[place] > limit:
                firsts.append(place << shift)
                size = 0.0
            size += sizes[place]
        lasts = [first - 1 for first in firsts[1:]] + [self._last_code]
        return list(zip(firsts, lasts, strict=True))

    def _sorted_range(self, first: int, last: int, buffer: Codes) -> Iterator[tuple[Codes, Ints]]:
        """Yield the distinct n-grams of one range as `sorted_ngrams` does.

        Where a range holds more codes than the buffer, each filling of the buffer is reduced to its
        distinct codes. They are few if single codes fill a bin: ranges cannot be cut finer.
        """
        reduced: list[tuple[Codes, Ints]] = []
        filled = 0
        for codes in self._codes():
            if (first, last) != (0, self._last_code):
                # Unsigned: what lies below `first` wraps around to a large number.
                codes = codes[codes - first <= last - first]
            while len(codes):
                if filled == len(buffer):
                    buffer.sort()
                    reduced.append(_distinct(buffer))
                    filled = 0
                fitting = codes[: len(buffer) - filled]
                buffer[filled : filled + len(fitting)] = fitting
                filled += len(fitting)
                codes = codes[len(fitting) :]
        content = buffer[:filled]
        content.sort()
        if reduced:
            yield _merged([*reduced, _distinct(content)])
        else:
            for start in range(0, filled, BATCH):
                yield _distinct(content[start : start + BATCH])


def _read(part: Ids, start: int, stop: int) -> Ids:
    """Return part[start:stop]."""
    if isinstance(part, np.memmap) and part.filename is not None:
        # Pages of a mapped file would count as this process's memory.
        offset = part.offset + start * part.itemsize
        ids: NDArray[Any] = np.fromfile(part.filename, part.dtype, stop - start, offset=offset)
        return ids
    return part[start:stop]


def codes(ids: Ids, vocabulary: int, order: int, dtype: CodeType) -> Codes:
    """Return the code of each n-gram of a chunk."""
    # Converted once: an addition of unlike types would convert a few elements at a time.
    symbols: Codes = ids.astype(dtype)
    count = len(ids) - order + 1
    codes = symbols[:count].copy()
    for place in range(1, order):
        codes *= vocabulary
        codes += symbols[place : place + count]
    return codes


def _distinct(codes: Codes, counts: Ints | None = None) -> tuple[Codes, Ints]:
    """Return each of some ascending codes once, with its count.

    Args:
        codes: ascending, equal ones side by side.
        counts: occurrences that each stands for; one each if None.
    """
    if not len(codes):
        return codes, np.empty(0, dtype=np.int64)
    firsts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    if counts is None:
        return codes[firsts], np.diff(firsts, append=len(codes))
    return codes[firsts], np.add.reduceat(counts, firsts)


def _merged(batches: list[tuple[Codes, Ints]]) -> tuple[Codes, Ints]:
    """Return the distinct codes of several batches in ascending order, with their counts."""
    codes = np.concatenate([codes for codes, _ in batches])
    counts = np.concatenate([counts for _, counts in batches])
    ascending = np.argsort(codes, kind="stable")
    return _distinct(codes[ascending], counts[ascending])
