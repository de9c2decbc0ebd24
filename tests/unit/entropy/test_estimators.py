import math
import shutil
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from charlm.entropy import counts_of_counts, estimators, measurements
from charlm.files import read_json
from charlm.ngrams.counting import grams
from stages import entropy as stage
from tests.workspace import PROJECT, encode_text

PUBLISHED_BITS_PER_CHAR = {1: 4.7794, 2: 4.1588, 3: 3.6899, 4: 3.3077}
PUBLISHED_CONDITIONAL = {1: 3.5383, 2: 2.7520, 3: 2.1610, 4: 1.7672}


def statistics(ids, vocabulary, orders):
    return estimators.statistics(counts_of_counts.in_memory(np.array(ids), vocabulary, orders), 1.0)


def estimate(counts):
    return estimators.estimate(*np.unique(counts, return_counts=True))


def plug_in(ids, orders, vocabulary=None):
    ids = np.array(ids)
    rows = statistics(ids, vocabulary or int(ids.max()) + 1, orders)
    return {row.order: row.estimates["plug_in"] for row in rows}


def test_the_published_table_to_four_decimals(corpus_ids):
    ids = np.concatenate([ids.numpy() for ids in corpus_ids.values()])
    rows = plug_in(ids, [1, 2, 3, 4, 5])
    for order, bits in PUBLISHED_BITS_PER_CHAR.items():
        assert round(rows[order].bits_per_char, 4) == bits
    for context, bits in PUBLISHED_CONDITIONAL.items():
        assert round(rows[context + 1].conditional_bits_per_char, 4) == bits
    # The document's "bits per byte" is a compression ratio.
    assert round(rows[1].compression_ratio, 4) == 0.5974


def test_an_unsmoothed_count_model_loses_the_conditional_entropy(corpus_ids):
    """Two ways to one number: p(b | a) = c(ab) / c(a .) on the pairs that it was counted on."""
    ids = corpus_ids["train"].numpy().astype(int)
    pairs = np.zeros((65, 65))
    np.add.at(pairs, (ids[:-1], ids[1:]), 1)
    p = pairs / pairs.sum(axis=1, keepdims=True).clip(1)
    loss = -np.log2(p[ids[:-1], ids[1:]]).mean()
    assert loss == pytest.approx(plug_in(ids, [2])[2].conditional_bits_per_char, abs=1e-9)


def test_a_pencil_case():
    # "abab": a and b twice each; the pairs are ab, ba, ab.
    one, two = statistics([0, 1, 0, 1], 2, [1, 2])
    assert one.estimates["plug_in"].bits == 1.0
    assert two.estimates["plug_in"].bits == pytest.approx(math.log2(3) - 2 / 3)
    assert two.distinct == 2
    assert two.once_share == 0.5
    # After a comes b always; after b, a always: nothing is left to say.
    assert two.estimates["plug_in"].conditional_bits_per_char == pytest.approx(0)


def test_the_estimators_by_hand():
    """Counts 1, 1, 2 of N = 4: digamma(1) = -g, digamma(2) = 1 - g, g = 0.5772 (Euler)."""
    found = estimate([1, 1, 2])
    nats = {name: bits * math.log(2) for name, bits in found.items()}
    assert nats["plug_in"] == pytest.approx(1.5 * math.log(2))
    assert nats["miller_madow"] == pytest.approx(1.5 * math.log(2) + 2 / 8)
    # G(1) = -g - ln 2, G(2) = 2 - g - ln 2.
    euler = 0.5772156649015329
    expected = math.log(4) - (2 * (-euler - math.log(2)) + 2 * (2 - euler - math.log(2))) / 4
    assert nats["grassberger"] == pytest.approx(expected)
    # Half of the draws are covered, so q = 1/8, 1/8 and 1/4.
    terms = [(q, 1 - (1 - q) ** 4) for q in (1 / 8, 1 / 8, 1 / 4)]
    assert nats["chao_shen"] == pytest.approx(-sum(q * math.log(q) / seen for q, seen in terms))


def test_the_corrections_meet_the_truth_where_plug_in_does_not():
    """1,000 equally likely symbols, 2,000 draws: 9.966 bits."""
    draws = np.random.default_rng(0).integers(0, 1000, 2000)
    found = estimate(np.bincount(draws)[np.bincount(draws) > 0])
    truth = math.log2(1000)
    missing = truth - found["plug_in"]
    assert missing > 0.3
    assert abs(found["grassberger"] - truth) < 0.1
    assert abs(found["chao_shen"] - truth) < missing / 2
    assert found["plug_in"] < found["miller_madow"] < found["grassberger"]


def test_texts_of_one_symbol_or_of_n_grams_seen_once_have_finite_estimates():
    for ids in ([0, 0, 0, 0], [0, 1, 2, 3], [0]):
        for row in statistics(ids, 4, [1, 2, 3, 4]):
            for estimate in row.estimates.values():
                assert math.isfinite(estimate.bits)
                assert math.isfinite(estimate.conditional_bits_per_char)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=60), st.integers(1, 5))
def test_equals_counting_with_a_dictionary(ids, order):
    rows = statistics(ids, 6, [order])
    strings = [tuple(ids[i : i + order]) for i in range(len(ids) - order + 1)]
    if not strings:
        assert rows == []
        return
    counted = Counter(strings).values()
    plain = -sum(c / len(strings) * math.log2(c / len(strings)) for c in counted)
    assert rows[0].estimates["plug_in"].bits == pytest.approx(plain, abs=1e-12)
    assert rows[0].distinct == len(set(strings))
    assert rows[0].once_share == sum(c == 1 for c in counted) / len(counted)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.sampled_from([4, 5000]))
def test_tables_and_sorting_count_alike(ids, vocabulary):
    """A large vocabulary is sorted, a small one looked up; both name n-grams in order."""
    for n, found in enumerate(grams(np.array(ids), vocabulary, 4), start=1):
        strings = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        ordered = sorted(set(strings))
        assert found.counts_G.tolist() == [strings.count(string) for string in ordered]
        assert found.ranks_N.tolist() == [ordered.index(string) for string in strings]
        assert (found.codes_G % vocabulary).tolist() == [string[-1] for string in ordered]


def test_high_orders_of_large_vocabularies_do_not_overflow():
    ids = np.random.default_rng(0).integers(0, 60_000, 200).astype(np.uint16)
    assert plug_in(ids, [8], 60_000)[8].bits == pytest.approx(math.log2(193))


@pytest.fixture
def encoded(tmp_path, monkeypatch, corpus_text):
    """A folder with a short text encoded, to run the stage in."""
    (tmp_path / "data/encoded").mkdir(parents=True)
    encode_text(corpus_text[:30_000], tmp_path / "data/encoded")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_large_text_is_counted_to_order_5_and_no_further(encoded, monkeypatch):
    """The limit is moved below a short text, whose figures must stay what they were."""
    assert CliRunner().invoke(stage.main).exit_code == 0
    whole = read_json(encoded / "results/entropy.json")
    monkeypatch.setattr(measurements, "LARGE", 29_999)
    result = CliRunner().invoke(stage.main)
    assert "30,000 characters are more than 29,999: orders to 5 only" in result.output
    large = read_json(encoded / "results/entropy.json")
    for text in ("whole", "train"):
        assert large["texts"][text]["orders"] == whole["texts"][text]["orders"][:5]
    assert (large["held_out"], large["compressors"]) == ([], [])
    assert len(whole["held_out"]) == 10
    for key in ("characters", "symbols", "bytes_per_char"):
        assert large[key] == whole[key]


def test_a_large_text_without_short_orders_is_refused_in_one_line(encoded, monkeypatch):
    monkeypatch.setattr(measurements, "LARGE", 29_999)
    path = encoded / "params.yaml"
    path.write_text(path.read_text().replace("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "[6, 7]"))
    result = CliRunner().invoke(stage.main)
    assert result.exit_code == 1
    assert "entropy.orders: of 30,000 characters with 58 symbols only orders up" in (result.output)
    assert result.output.count("\n") == 1


def test_an_interrupted_count_leaves_what_was_there(encoded, monkeypatch):
    (encoded / "results").mkdir()
    (encoded / "results/entropy.json").write_text("before")
    monkeypatch.setattr(measurements, "LARGE", 29_999)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(counts_of_counts.np, "bincount", interrupted)
    assert CliRunner().invoke(stage.main).exit_code == 1
    assert [path.name for path in (encoded / "results").iterdir()] == ["entropy.json"]
    assert (encoded / "results/entropy.json").read_text() == "before"
