"""What followed the last characters when they last occurred: an exact memory of the recent past.

For the character at t and a place j before it, both among the last M characters, let m(j, t) be how
many characters up to j agree with as many up to t, as far as those M reach:

    r_c(w | t) = number of places j with x_{j+1} = w and a_c <= m(j, t) < a_{c+1}

of which the latest 32 with m(j, t) >= a_1 are looked at. Recurrent networks forget a name within a
few lines, and what stands here brings it back: what attention learns to do in larger models
("induction heads") is done by construction. Nothing is learned from a text that is read; its last M
characters are remembered.

Source: Kuhn and De Mori, "A Cache-Based Natural Language Model for Speech Recognition", 1990;
Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005 (matches, trusted
by their length); Olsson et al., "In-context Learning and Induction Heads", 2022.

Shapes: B texts, N characters, T of them new, C classes of length, V symbols.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.counting import Ints

LATEST = 32
"""Places looked at for each character: bounds the work where a text repeats itself all the time.

At most 255, so that a count is a byte."""


def followers(
    ids_BN: NDArray[np.integer], new: int, reach: int, lengths: Sequence[int], vocabulary: int
) -> NDArray[np.uint8]:
    """Count what followed the earlier occurrences of the last characters.

    Args:
        ids_BN: texts of one length, integers in [0, V).
        new: T, for how many characters to count: the last ones of each text.
        reach: M, characters remembered, the last one among them.
        lengths: a_1, a_2, ..., ascending: the least characters that agree in each class.
        vocabulary: number of symbols.

    Returns:
        r after each of the T characters, B x T x C x V.

    >>> followers(np.array([[0, 1, 2, 0, 1]]), 1, 8, [1, 2], 3)[0, 0].tolist()
    [[0, 0, 0], [0, 0, 1]]
    """
    rows, length = ids_BN.shape
    counts = np.zeros(rows * new * len(lengths) * vocabulary, dtype=np.uint8)
    context_BN = _contexts(ids_BN, lengths[0], vocabulary)
    ids, context = ids_BN.astype(np.int64).ravel(), context_BN.ravel()
    in_order = np.argsort(context, kind="stable")
    context = context[in_order]
    for earlier in range(1, min(LATEST, len(ids) - 1) + 1):
        same = np.flatnonzero(context[earlier:] == context[:-earlier])
        now, then = in_order[same + earlier], in_order[same]
        # As far as these agree, they do so within the text and within what is remembered.
        most = np.minimum(reach - (now - then), then % length + 1)
        use = (most >= lengths[0]) & (now % length >= length - new)
        if not use.any():
            break
        now, then, most = now[use], then[use], most[use]
        agree = np.full(len(now), lengths[0])
        for further in range(lengths[0], lengths[-1]):
            alike = ids[np.maximum(now - further, 0)] == ids[np.maximum(then - further, 0)]
            agree += (agree == further) & (most > further) & alike
        place = now // length * new + now % length - (length - new)
        kind = np.searchsorted(lengths, agree, side="right") - 1
        np.add.at(counts, (place * len(lengths) + kind) * vocabulary + ids[then + 1], 1)
    return counts.reshape(rows, new, len(lengths), vocabulary)


def _contexts(ids_BN: NDArray[np.integer], length: int, vocabulary: int) -> Ints:
    """Number the last `length` characters at each place, in each text anew; shape of the ids.

    The first places, which have fewer characters behind them, are numbered as if more came before.
    """
    rows = len(ids_BN)
    context_BN = np.repeat(np.arange(rows)[:, None], ids_BN.shape[1], axis=1)
    numbers = rows
    for back in range(length):
        if numbers * vocabulary >= 1 << 62:
            found, places = np.unique(context_BN, return_inverse=True)
            context_BN, numbers = places.reshape(ids_BN.shape), len(found)
        context_BN = context_BN * vocabulary
        context_BN[:, back:] += ids_BN[:, : max(0, ids_BN.shape[1] - back)]
        numbers *= vocabulary
    return context_BN
