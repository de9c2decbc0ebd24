import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm import encoding, entropy

PUBLISHED_BITS_PER_CHAR = {1: 4.7794, 2: 4.1588, 3: 3.6899, 4: 3.3077}
PUBLISHED_CONDITIONAL = {1: 3.5383, 2: 2.7520, 3: 2.1610, 4: 1.7672}


def test_the_published_table_to_four_decimals(corpus_text):
    splits = encoding.encode(corpus_text, 0.9, 0.05).splits
    ids = np.concatenate([splits[split] for split in encoding.SPLITS])
    rows = {row.order: row for row in entropy.statistics(ids, [1, 2, 3, 4, 5], 1.0)}
    for order, bits in PUBLISHED_BITS_PER_CHAR.items():
        assert round(rows[order].bits_per_char, 4) == bits
    for context, bits in PUBLISHED_CONDITIONAL.items():
        assert round(rows[context + 1].conditional_bits_per_char, 4) == bits
    # The document's "bits per byte" is a compression ratio.
    assert round(rows[1].compression_ratio, 4) == 0.5974


def test_a_pencil_case():
    # "abab": a and b twice each; the pairs are ab, ba, ab.
    one, two = entropy.statistics(np.array([0, 1, 0, 1]), [1, 2], 1.0)
    assert one.bits == 1.0
    assert two.bits == pytest.approx(math.log2(3) - 2 / 3)
    assert two.distinct == 2
    assert two.once_share == 0.5
    # After a comes b always; after b, a always: nothing is left to say.
    assert two.conditional_bits_per_char == pytest.approx(0)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=60), st.integers(1, 5))
def test_equals_counting_with_a_dictionary(ids, order):
    rows = entropy.statistics(np.array(ids), [order], 1.0)
    grams = [tuple(ids[i : i + order]) for i in range(len(ids) - order + 1)]
    if not grams:
        assert rows == []
        return
    plain = -sum(c / len(grams) * math.log2(c / len(grams)) for c in Counter(grams).values())
    assert rows[0].bits == pytest.approx(plain, abs=1e-12)
    assert rows[0].distinct == len(set(grams))


def test_high_orders_of_large_vocabularies_do_not_overflow():
    ids = np.random.default_rng(0).integers(0, 60_000, 200).astype(np.uint16)
    assert entropy.statistics(ids, [8], 1.0)[0].bits == pytest.approx(math.log2(193))
