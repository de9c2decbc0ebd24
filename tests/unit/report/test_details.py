"""Where the bits go, by hand."""

import numpy as np
import pytest

from charlm.report import details
from tests.unit.report.examples import result
from tests.unit.report.test_page import html, words

KINDS = ("letter", "other")


def ways(text, train, line_end=9):
    kinds_N = np.array([0 if symbol < 5 else 1 for symbol in text])
    return details.groupings(KINDS, kinds_N, np.array(train), np.array(text), line_end)


def test_characters_are_sorted_by_kind_place_and_how_often_their_context_was_seen():
    """The context 1234 occurs 3 times in training, 2349 once before the text's first symbol."""
    train = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 9]
    text = [1, 2, 3, 4, 9, 1, 2, 3, 4, 1]
    kind, place, seen = ways(text, train)
    assert kind.groups_N.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert place.names == ("1 to 5", "6 to 20", "21 or more")
    assert place.groups_N.tolist() == [0] * 10
    assert seen.names == ("0", "1 to 9", "10 to 99", "100 or more")
    # Contexts: 2349, 3491, 4912, 9123, 1234, 2349, 3491, ...
    assert seen.groups_N.tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert kind.shares == pytest.approx([0.9, 0.1])


def test_a_line_begins_anew_and_a_text_without_lines_is_one():
    text = [1] * 7 + [9] + [1] * 3
    _, place, _ = ways(text, [1] * 20)
    assert place.groups_N.tolist() == [0] * 5 + [1] * 3 + [0] * 3
    _, place, _ = ways([1] * 30, [1] * 20, line_end=-1)
    assert place.groups_N.tolist() == [0] * 5 + [1] * 15 + [2] * 10


def test_bits_of_groups_and_what_came_of_a_probability(monkeypatch):
    text = np.array([0, 0, 0, 1] * 30)
    log_p = np.log(np.tile([0.7, 0.3], (120, 1)))
    grouping = details.Grouping("kind", ("zero", "one", "none"), text)
    found = details.details(log_p, text, [grouping])
    assert found["groups"][0][:2] == pytest.approx([-np.log2(0.7), -np.log2(0.3)], rel=1e-5)
    assert found["groups"][0][2] is None
    # Given 30 %, the second symbol came in a quarter; nothing was given 10, 50 or 90 %.
    assert [pair is None for pair in found["came"]] == [True, False, True, False, True]
    assert found["came"][1] == pytest.approx((0.3, 0.25), rel=1e-5)
    assert found["came"][3] == pytest.approx((0.7, 0.75), rel=1e-5)
    # In parts it is the same.
    monkeypatch.setattr(details, "PART", 7)
    again = details.details(log_p, text, [grouping])
    assert again["groups"] == found["groups"]
    assert again["came"][1] == pytest.approx(found["came"][1])


def test_without_all_log_probabilities_there_are_none():
    assert details.details(np.zeros((3, 2)), np.zeros(4, dtype=int), []) is None


def test_a_short_training_text_has_seen_nothing():
    assert details.times(np.array([1, 2]), np.array([1, 2, 1])).tolist() == [0, 0, 0]


DETAILS = {
    "groups": [[1.0, 3.0]],
    "came": [None, (0.29, 0.31), (0.5, 0.5), (0.7, 0.72), (0.9, 0.9)],
}
WAY = details.Grouping("kind of character", KINDS, np.array([0, 0, 0, 1]))


def test_of_a_large_training_text_the_end_counts(monkeypatch):
    text_N = np.array([1, 2, 1, 2, 1])
    train_N = np.array([1, 2] * 20)
    assert details.times(train_N, text_N)[-1] == 19
    monkeypatch.setattr(details, "MOST_COUNTED", 10)
    assert details.times(train_N, text_N)[-1] == 4


def test_the_page_says_where_most_bits_go():
    results = [result("a", 1.0, details=DETAILS), result("b", 2.0)]
    shown = words(results, groupings=[WAY])
    assert "costs a most is letter: 75 % of the characters of validation, 50 % of" in shown
    assert "29.0 → 31.0 %" in shown
    other = DETAILS | {"groups": [[1.0, 3.1]]}
    shown = words([result("a", 1.0, details=other)], groupings=[WAY])
    assert "costs a most is other: 25 % of the characters of validation, 51 % of its bits" in shown


def test_without_details_there_is_no_such_section():
    assert "Where the bits go" not in html([result("a", 1.0)], groupings=[WAY])
