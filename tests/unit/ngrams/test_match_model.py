"""The match model against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.ngrams.match_model import LATEST, followers

LENGTHS = st.sets(st.integers(1, 9), min_size=1, max_size=3).map(sorted)


def by_definition(ids_BN, new, reach, lengths, vocabulary):
    rows, length = ids_BN.shape
    counts = np.zeros((rows, new, len(lengths), vocabulary), dtype=np.int64)
    for row, t in np.ndindex(rows, new):
        end = length - new + t + 1
        seen = ids_BN[row, max(0, end - reach) : end].tolist()
        occurrences = 0
        for j in reversed(range(len(seen) - 1)):
            agree = 0
            while agree <= j and seen[j - agree] == seen[-1 - agree]:
                agree += 1
            if agree >= lengths[0] and occurrences < LATEST:
                occurrences += 1
                length_class = sum(agree >= least for least in lengths) - 1
                counts[row, t, length_class, seen[j + 1]] += 1
    return counts


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 90), LENGTHS)
def test_counts_are_those_of_the_definition(data, vocabulary, rows, length, lengths):
    text = st.lists(st.integers(0, vocabulary - 1), min_size=length, max_size=length)
    ids_BN = np.array([data.draw(text) for _ in range(rows)])
    new, reach = data.draw(st.integers(1, length)), data.draw(st.integers(0, 100))
    counts = followers(ids_BN, new, reach, lengths, vocabulary)
    assert np.array_equal(counts, by_definition(ids_BN, new, reach, lengths, vocabulary))


def test_only_characters_within_reach_count():
    """Change any character: nothing changes before it, nor once it is out of reach."""
    text = np.random.default_rng(1).integers(0, 3, (1, 400))
    before = followers(text, 400, 50, [1, 3], 3)
    for changed in (0, 57, 200, 399):
        other = text.copy()
        other[0, changed] = (other[0, changed] + 1) % 3
        after = followers(other, 400, 50, [1, 3], 3)
        assert np.array_equal(before[:, :changed], after[:, :changed])
        assert np.array_equal(before[:, changed + 50 :], after[:, changed + 50 :])
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("vocabulary", [3, 65, 1_114_112])
def test_symbols_of_any_number(vocabulary):
    """Eight of the last vocabulary's would overflow one number."""
    last = vocabulary - 1
    ids = np.array([[last, 0, last, last, 0, last, 1, 0, last, last, 0, last]])
    counts = followers(ids, 1, 12, [6, 8], vocabulary)
    assert not counts.any()
    counts = followers(ids, 1, 12, [5], vocabulary)
    assert (counts.sum(), counts[0, 0, 0, 1]) == (1, 1)
