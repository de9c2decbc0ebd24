"""Kinds of characters, so that one can say where an idea gains.

Shapes: N characters of a text, T of them targets.
"""

import re

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams import kneser_ney

KINDS = ("speaker", "first letter", "inside a word", "space or punctuation", "line end")
"""Every character is of one kind: in a line that names a speaker (it ends with a colon, and holds
no other), a letter or digit that begins a word, one that goes on with it, the end of a line, or
anything else."""

SEEN, UNSEEN = "seen in training", "unseen in training"
"""Apart from that: whether the character and the few before it occur together in training."""

ORDER = 5
"""How many characters those are."""

SPEAKER = re.compile(r"^[^\n:]+:$", re.MULTILINE)


def kinds(text: str) -> NDArray[np.int8]:
    """Return the kind of each character, as its place in KINDS.

    >>> [KINDS[kind] for kind in kinds("A:\\nTo go")]
    ['speaker', 'speaker', 'line end', 'first letter', 'inside a word', 'space or punctuation',
    'first letter', 'inside a word']
    """
    found = np.empty(len(text), dtype=np.int8)
    before = " "
    for place, symbol in enumerate(text):
        if symbol == "\n":
            kind = "line end"
        elif not symbol.isalnum():
            kind = "space or punctuation"
        else:
            kind = "inside a word" if before.isalnum() else "first letter"
        found[place] = KINDS.index(kind)
        before = symbol
    for line in SPEAKER.finditer(text):
        found[line.start() : line.end()] = KINDS.index("speaker")
    return found


def seen(
    train_N: NDArray[np.integer], targets_T: NDArray[np.integer], symbols: int
) -> NDArray[np.bool_]:
    """Return whether each target, with the characters before it, occurs in training.

    Args:
        train_N: ids of the training text, which the targets follow.
        targets_T: ids of the targets.
        symbols: of the vocabulary.
    """
    levels = kneser_ney.counts(train_N, symbols, ORDER).levels(ORDER)
    ids = np.concatenate([train_N[len(train_N) - ORDER + 1 :], targets_T])
    found: NDArray[np.bool_] = kneser_ney.places(levels, symbols, ids)[len(levels)] >= 0
    return found[len(ids) - len(targets_T) :]
