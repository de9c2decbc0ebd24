"""The match model: what followed the last characters when they occurred before.

For the character at t and an earlier place j, both among the last M characters, let m(j, t) be how
many characters up to j agree with as many up to t, as far as those M reach:

    r_c(w | t) = number of places j with x_{j+1} = w and a_c <= m(j, t) < a_{c+1}

Only the latest 32 places with m(j, t) >= a_1 are looked at. A recurrent network forgets a name
within a few lines, and the match model brings it back. Larger models with attention learn to do the
same ("induction heads"); here it is built in. Nothing is learned from the text: its last M
characters are the whole state.

Source: Kuhn and De Mori, "A Cache-Based Natural Language Model for Speech Recognition", 1990;
Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression", 2005 (matches, trusted
by their length); Olsson et al., "In-context Learning and Induction Heads", 2022.

Shapes: B texts, N characters, T of them new, C classes of length, V symbols, P pairs of places.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.counting import Ints

LATEST = 32
"""Earlier places looked at for each character: bounds the work where a text repeats itself.

At most 255, so that a count is a byte."""


def followers(
    ids_BN: NDArray[np.integer], new: int, reach: int, lengths: Sequence[int], vocabulary: int
) -> NDArray[np.uint8]:
    """Count what followed the earlier occurrences of the last characters.

    Args:
        ids_BN: texts of one length, integers in [0, V).
        new: T, for how many characters to count: the last ones of each text.
        reach: M, characters that are looked at, the last one among them.
        lengths: a_1, a_2, ..., ascending: the fewest characters that agree in each class.
        vocabulary: number of symbols, V.

    Returns:
        r after each of the T characters, B x T x C x V.

    >>> followers(np.array([[0, 1, 2, 0, 1]]), 1, 8, [1, 2], 3)[0, 0].tolist()
    [[0, 0, 0], [0, 0, 1]]
    """
    texts, length = ids_BN.shape
    first_new = length - new
    ids = ids_BN.astype(np.int64).ravel()
    counts_BTCV = np.zeros((texts, new, len(lengths), vocabulary), dtype=np.uint8)
    for now_P, then_P in _occurrences(ids_BN, lengths[0], vocabulary):
        # At `then` no more characters can agree than the text and the reach still have there.
        possible_P = np.minimum(now_P % length + 1, reach) - (now_P - then_P)
        use_P = (possible_P >= lengths[0]) & (now_P % length >= first_new)
        if not use_P.any():
            break  # still earlier places are out of reach too
        now_P, then_P, possible_P = now_P[use_P], then_P[use_P], possible_P[use_P]
        agreeing_P = _agreement(ids, now_P, then_P, possible_P, lengths)
        class_P = np.searchsorted(lengths, agreeing_P, side="right") - 1
        text_P, place_P = np.divmod(now_P, length)
        # No place is in `now_P` twice, so no addition is lost.
        counts_BTCV[text_P, place_P - first_new, class_P, ids[then_P + 1]] += 1
    return counts_BTCV


def _occurrences(
    ids_BN: NDArray[np.integer], length: int, vocabulary: int
) -> Iterator[tuple[Ints, Ints]]:
    """Yield places with their latest earlier occurrence, then with the latest but one, and so on.

    A place is the end of `length` characters, as an index into all texts one after the other. An
    occurrence has the same characters, in the same text.
    """
    contexts = _contexts(ids_BN, length, vocabulary).ravel()
    # Equal contexts side by side, in the order of the text.
    places = np.argsort(contexts, kind="stable")
    contexts = contexts[places]
    for earlier in range(1, min(LATEST, len(places) - 1) + 1):
        same = np.flatnonzero(contexts[earlier:] == contexts[:-earlier])
        yield places[same + earlier], places[same]


def _agreement(
    ids: Ints, now_P: Ints, then_P: Ints, possible_P: Ints, lengths: Sequence[int]
) -> Ints:
    """Return how many characters up to each pair of places agree, but no more than matters.

    Args:
        ids: all texts, one after the other.
        now_P: places in them.
        then_P: earlier places, where as many characters agree as the first of `lengths`.
        possible_P: the most that can agree.
        lengths: a_1, a_2, ...; beyond the last of them nothing is compared.
    """
    agreeing_P = np.full(len(now_P), lengths[0])
    pairs = np.arange(len(now_P))  # those that agree so far
    for back in range(lengths[0], lengths[-1]):
        pairs = pairs[possible_P[pairs] > back]
        pairs = pairs[ids[now_P[pairs] - back] == ids[then_P[pairs] - back]]
        agreeing_P[pairs] += 1
    return agreeing_P


def _contexts(ids_BN: NDArray[np.integer], length: int, vocabulary: int) -> Ints:
    """Number the last `length` characters at each place, in each text anew; shape of the ids.

    The first places of a text, which have fewer characters before them, are numbered as if symbol 0
    came before.
    """
    numbers_BN = np.repeat(np.arange(len(ids_BN))[:, None], ids_BN.shape[1], axis=1)
    limit = len(ids_BN)  # all numbers are below
    for back in range(length):
        if limit * vocabulary >= 1 << 62:
            distinct, ranks = np.unique(numbers_BN, return_inverse=True)
            numbers_BN, limit = ranks.reshape(ids_BN.shape), len(distinct)
        numbers_BN = numbers_BN * vocabulary
        numbers_BN[:, back:] += ids_BN[:, : max(0, ids_BN.shape[1] - back)]
        limit *= vocabulary
    return numbers_BN
