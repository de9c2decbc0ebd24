"""Where the bits of validation go, and whether a probability means what it says.

Shapes: N characters of validation, R of them with log-probabilities, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams import kneser_ney

PLACES = (1, 6, 21)
"""First places in a line of each group; the next begins a group of its own."""

CONTEXT = 4
"""Characters of a context that training has seen so often."""

MOST_COUNTED = 4_000_000
"""Characters of the training text in which contexts are counted."""

TIMES = (0, 1, 10, 100)
"""Fewest times of each group."""

GIVEN = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Probabilities that are looked at, each with what is within WITHIN of it."""

WITHIN = 0.05

PART = 8192
"""Characters that are looked at in one go: bounds the memory."""

ENOUGH = 30
"""Symbols that were given a probability, from which on the share that came is shown."""

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Grouping:
    """One way to sort characters.

    Attributes:
        title: what they are sorted by.
        names: of the groups.
        groups_N: the group of each character.
    """

    title: str
    names: tuple[str, ...]
    groups_N: NDArray[np.int64]

    @property
    def shares(self) -> list[float]:
        """The share of all characters in each group."""
        counts = np.bincount(self.groups_N, minlength=len(self.names))
        shares: list[float] = (counts / max(1, len(self.groups_N))).tolist()
        return shares


def groupings(
    kinds: Sequence[str], kinds_N: NDArray[np.integer], train_N: Ids, text_N: Ids, line_end: int
) -> list[Grouping]:
    """Return the ways to sort the characters of validation.

    Args:
        kinds: names of kinds of characters.
        kinds_N: the kind of each.
        train_N: ids of the training text.
        text_N: ids of validation.
        line_end: id of the symbol that ends a line; -1 if there is none.
    """
    ends = np.concatenate([[-1], np.flatnonzero(text_N == line_end)])
    places_N = np.arange(len(text_N))
    place_N = places_N - ends[np.searchsorted(ends, places_N, side="left") - 1]
    place_N = np.searchsorted(PLACES, place_N, side="right") - 1
    return [
        Grouping("kind of character", tuple(kinds), kinds_N.astype(np.int64)),
        Grouping("place in the line", ranges(PLACES), place_N),
        Grouping(
            f"times that the last {CONTEXT} characters occur in training",
            ranges(TIMES),
            np.searchsorted(TIMES, times(train_N, text_N), side="right") - 1,
        ),
    ]


def to_a_line(ids_N: Ids, line_end: int, before: int, characters: int) -> int:
    """Return how many characters to skip so that an excerpt begins with a line; 0 if none does.

    Args:
        ids_N: of a text.
        line_end: id of the symbol that ends a line; -1 if there is none.
        before: characters between those that are skipped and the excerpt.
        characters: of the excerpt.

    >>> to_a_line(np.array([1, 1, 9, 1, 9, 1, 1]), 9, 2, 2)
    1
    """
    ends = np.flatnonzero(ids_N[before - 1 : -characters] == line_end)
    return int(ends[0]) if len(ends) else 0


def ranges(firsts: tuple[int, ...]) -> tuple[str, ...]:
    """Return how groups of numbers are called.

    >>> ranges((0, 1, 10))
    ('0', '1 to 9', '10 or more')
    """
    names = []
    for first, following in pairwise(firsts):
        names.append(str(first) if following == first + 1 else f"{first} to {following - 1}")
    return (*names, f"{firsts[-1]} or more")


def times(train_N: Ids, text_N: Ids) -> NDArray[np.int64]:
    """Return how often the characters before each one of a text occur in training, together.

    Of a large training text the end counts: to count a gigabyte takes tens of them.
    """
    train_N = train_N[-MOST_COUNTED:]
    ids = np.concatenate([train_N[len(train_N) - CONTEXT :], text_N]).astype(np.int64)
    symbols = int(max(train_N.max(initial=0), ids.max(initial=0))) + 1
    levels = kneser_ney.counts(train_N, symbols, CONTEXT).occurring
    if len(levels) < CONTEXT:
        return np.zeros(len(text_N), dtype=np.int64)
    found = kneser_ney.places(levels, symbols, ids)[CONTEXT][CONTEXT - 1 : -1]
    return np.where(found >= 0, levels[-1].counts_G[found], 0)


def details(
    log_p_RV: NDArray[np.floating], text_N: Ids, ways: list[Grouping]
) -> dict[str, Any] | None:
    """Return a model's bits in each group, and how often what it gave a probability came.

    Args:
        log_p_RV: log-probabilities of every symbol at the first R characters, and maybe more.
        text_N: ids of validation.
        ways: to sort its characters.

    Returns:
        `groups`: for each way, bits per character of each group (None of none); `came`: for each
        of GIVEN the mean probability that was given and the share that came (None of too few).
        None if not all of validation has log-probabilities.
    """
    if len(log_p_RV) < len(text_N) or not len(text_N):
        return None
    bits_N = np.empty(len(text_N))
    # Of each of GIVEN: how many symbols were given about so much, how much in all, how many came.
    sums_3G = np.zeros((3, len(GIVEN)))
    for first in range(0, len(text_N), PART):
        targets_P = text_N[first : first + PART].astype(np.int64)
        places_P = np.arange(len(targets_P))
        log_p_PV = np.asarray(log_p_RV[first : first + len(targets_P)], dtype=np.float32)
        bits_N[first : first + PART] = -log_p_PV[places_P, targets_P] / np.log(2)
        p_PV = np.exp(log_p_PV)
        for place, given in enumerate(GIVEN):
            near_PV = np.abs(p_PV - given) < WITHIN
            right = near_PV[places_P, targets_P].sum()
            sums_3G[:, place] += near_PV.sum(), p_PV[near_PV].sum(), right
    groups = []
    for way in ways:
        counts = np.bincount(way.groups_N, minlength=len(way.names))
        sums = np.bincount(way.groups_N, bits_N, minlength=len(way.names))
        groups.append([s / c if c else None for s, c in zip(sums.tolist(), counts, strict=True)])
    came = [
        (total / count, right / count) if count >= ENOUGH else None
        for count, total, right in sums_3G.T.tolist()
    ]
    return {"groups": groups, "came": came}


def most(way: Grouping, bits: list[float | None]) -> tuple[str, float, float]:
    """Return the group that costs most in all: its name, its share of characters, and of bits.

    >>> way = Grouping("kind", ("a", "b"), np.array([0, 0, 0, 1]))
    >>> most(way, [1.0, 9.0])
    ('b', 0.25, 0.75)
    """
    costs = [share * (each or 0.0) for share, each in zip(way.shares, bits, strict=True)]
    place = int(np.argmax(costs))
    return way.names[place], way.shares[place], costs[place] / (sum(costs) or 1.0)
