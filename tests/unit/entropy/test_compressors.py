import pytest

from charlm.entropy import compressors

PUBLISHED = {"zlib": 2.146, "bzip2": 1.662, "xz": 1.746, "ppmd": 1.4043}


def test_the_published_figures_of_the_last_tenth(corpus_text):
    """Nats per character of the holdout given the rest, as size(whole) - size(first 90 %)."""
    first = int(len(corpus_text) * 0.9)
    train, rest = corpus_text[:first].encode(), corpus_text[first:].encode()
    found = compressors.bits(train, rest)
    assert set(found) == {*PUBLISHED, "zstandard"}
    for name, nats in PUBLISHED.items():
        measured = found[name]["holdout"] * 0.6931471805599453 / len(rest)
        assert measured == pytest.approx(nats, abs=0.002 if name != "ppmd" else 0.0005)
    assert all(bits["whole"] > bits["holdout"] > 0 for bits in found.values())
