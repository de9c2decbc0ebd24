import math

import pytest

from charlm.entropy import compressors

PUBLISHED = {"zlib": 2.146, "bzip2": 1.662, "xz": 1.746, "ppmd": 1.4043}


def test_the_published_figures_of_the_last_tenth(corpus_text):
    """Nats per character of the holdout: size(whole text) - size(first 90 %)."""
    first = int(len(corpus_text) * 0.9)
    train, holdout = corpus_text[:first].encode(), corpus_text[first:].encode()
    half = len(holdout) // 2
    sizes = compressors.bits(train, holdout[:half], holdout[half:])
    assert set(sizes) == {*PUBLISHED, "zstandard"}
    for name, nats in PUBLISHED.items():
        measured = sizes[name]["holdout"] * math.log(2) / len(holdout)
        assert measured == pytest.approx(nats, abs=0.002 if name != "ppmd" else 0.0005)
    assert all(bits["whole"] > bits["holdout"] > bits["validation"] > 0 for bits in sizes.values())
