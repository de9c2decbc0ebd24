"""What the report makes of a record of ideas."""

import json

import pytest

from charlm.report import ideas

GAIN = {
    "validation": 0.5,
    "base_validation": 3.0,
    "error": 0.1,
    "over": "seeds",
    "each": [0.4, 0.6],
    "verdict": "gain",
    "windowed": 0.4,
    "test": 0.3,
    "equal_seconds": None,
    "kinds": {"speaker": {"share": 1.0, "bits": 0.5, "each": 0.5}},
}


def row(base=None, validation=3.0, **changes):
    content = {
        "family": "learning",
        "title": "A title",
        "base": base,
        "validation": validation,
        "from_nothing": 6.0 - validation,
        "gain": GAIN if base else None,
        "seeds": [1, 2],
        "characters": 1000,
        "seconds": 10.0,
        "curve": [],
        "machine": "m",
        "versions": "v",
        "date": "d",
        "corpus": "here",
    }
    return content | changes


@pytest.fixture
def load(tmp_path):
    def loaded(**rows):
        file = tmp_path / "ideas.json"
        record = {"command": "make ideas", "ladders": {"learning": ["a", "b"]}, "ideas": rows}
        file.write_text(json.dumps(record))
        return ideas.load(file, "here")

    return loaded


def test_a_comparison_has_its_base_and_its_ladder(load):
    found = ideas.section(load(a=row(), b=row("a", 2.5)))
    (shown,) = found["rows"]
    assert (shown["name"], shown["base_title"]) == ("b", "A title")
    (rungs,) = found["ladders"].values()
    assert [rung["after"] for rung in rungs] == [3.0, 2.5]
    assert rungs[1]["left"] == pytest.approx(2.5 / 6)
    assert rungs[1]["width"] == pytest.approx(0.5 / 6)


@pytest.mark.parametrize(
    "rows",
    [
        {"a": row(corpus="elsewhere"), "b": row("a", 2.5)},  # measured on another text since
        {"b": row("a", 2.5)},  # renamed, or taken out
        {"a": row(validation=2.9), "b": row("a", 2.5)},  # measured anew, without what rests on it
    ],
)
def test_without_its_base_there_is_no_comparison(rows, load):
    found = ideas.section(load(**rows))
    assert found["rows"] == []
    assert found["ladders"] == {}


def test_another_text_has_no_ideas(load, tmp_path):
    assert load(a=row(corpus="elsewhere")) is None
    assert ideas.load(tmp_path / "nothing.json", "here") is None


def test_ideas_whose_base_was_measured_anew_are_named():
    rows = {"a": row(validation=2.9), "b": row("a", 2.5), "c": row(), "d": row("c", 2.5)}
    assert ideas.out_of_date(rows) == ["b"]
    rows["a"] = row()
    assert ideas.out_of_date(rows) == []


def test_what_only_counts_is_not_said_to_have_seeds():
    found = ideas.section(
        {
            "command": "make ideas",
            "ladders": {},
            "ideas": {"a": row(seeds=[1]), "b": row("a", 2.5, seeds=[1])},
        }
    )
    assert found["seeds"] == []
