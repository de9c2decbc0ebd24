import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.entropy import counts_of_counts


def as_lists(orders):
    """Return each order with counts and frequencies of its n-grams, then of their contexts."""
    return [
        [row.order, *(array.tolist() for array in (*row.ngrams, *row.contexts))] for row in orders
    ]


def both(ids, vocabulary, order, memory_bytes=counts_of_counts.MEMORY_BYTES, cut=()):
    """Return what is counted in memory, and streamed from pieces of the text."""
    ids = np.array(ids, dtype=np.uint16)
    whole = counts_of_counts.in_memory(ids, vocabulary, list(range(1, order + 1)))
    pieces = np.split(ids, sorted(cut))
    return as_lists(whole), as_lists(
        counts_of_counts.streamed(pieces, vocabulary, order, memory_bytes)
    )


@given(
    st.lists(st.integers(0, 4), min_size=5, max_size=80),
    st.sampled_from([5, 70, 300, 7131]),
    st.integers(1, 5),
    st.sampled_from([8, 64, 1000]),
    st.lists(st.integers(0, 5), max_size=3),
)
def test_streaming_counts_as_memory_does(ids, vocabulary, order, memory_bytes, cut):
    """Also where memory holds one code only, so that no range fits and all are merged."""
    in_memory, streamed = both(ids, vocabulary, order, memory_bytes, cut)
    assert streamed == in_memory


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 20, 1 << 16])
def test_the_real_text_is_counted_alike(corpus_ids, memory_bytes):
    parts = [ids.numpy()[:100_000] for ids in corpus_ids.values()]
    in_memory = counts_of_counts.in_memory(np.concatenate(parts), 65, [1, 2, 3, 4, 5])
    assert as_lists(counts_of_counts.streamed(parts, 65, 5, memory_bytes)) == as_lists(in_memory)


def test_counts_beyond_the_table_and_a_text_of_one_symbol():
    ids = [0] * 10_000 + [1] * 5 + [0] * 20_000
    in_memory, streamed = both(ids, 2, 5, 4096)
    assert streamed == in_memory
    assert streamed[0][1] == [5, 30_000]
    in_memory, streamed = both([0] * 50_000, 1, 3)
    assert streamed == in_memory


@pytest.mark.parametrize(
    ("vocabulary", "order"), [(1, 64), (2, 64), (65, 10), (7131, 5), (7132, 4), (65_536, 4)]
)
def test_the_highest_order_fits_64_bits(vocabulary, order):
    assert counts_of_counts.highest_order(vocabulary) == order


def test_the_largest_codes_do_not_overflow():
    ids = np.random.default_rng(0).integers(65_500, 65_536, 3000)
    in_memory, streamed = both(ids, 65_536, 4, 4096)
    assert streamed == in_memory


def test_files_are_read_in_chunks(tmp_path):
    """A million characters, memory for 1/16 of their codes: the peak stays near that."""
    ids = np.random.default_rng(0).integers(0, 65, 1_000_000, dtype=np.uint8)
    np.save(tmp_path / "ids.npy", ids)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    advances = []
    counts_of_counts.streamed([mapped[:10]], 65, 2)
    tracemalloc.start()
    streamed = counts_of_counts.streamed([mapped], 65, 5, 1 << 18, advances.append)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20
    assert sum(advances) == 999_996
    assert as_lists(streamed) == as_lists(counts_of_counts.in_memory(ids, 65, [1, 2, 3, 4, 5]))


def test_a_pencil_case():
    """The text "ababa": its contexts are "abab", its pairs ab, ba, ab, ba."""
    in_memory, streamed = both([0, 1, 0, 1, 0], 2, 2)
    assert streamed == in_memory
    assert in_memory == [[1, [2, 3], [1, 1], [5], [1]], [2, [2], [2], [2], [2]]]
