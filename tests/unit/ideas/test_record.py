"""Figures of ideas, by hand."""

import math

import numpy as np
import pytest

from charlm.ideas import record
from charlm.ideas.kinds import KINDS, SEEN, UNSEEN, kinds, seen
from charlm.ideas.side import Holdout, bits

NAMES = list(KINDS)


def run(seed, validation, *, seconds=10.0, curve=(), chunks=(10.0, 12.0), nats=None):
    nats = nats or [validation * math.log(2) * 4, 0, 0, 0, 0]
    counts = [4, 0, 0, 0, 0]
    return {
        "name": f"run-{seed}",
        "seed": seed,
        "learning_rate": 0.1,
        "parameters": 7,
        "characters": 1000,
        "seconds": seconds,
        "validation": validation,
        "test": validation + 0.5,
        "windowed": validation + 0.1,
        "kinds": {
            **{kind: [count, n] for kind, count, n in zip(KINDS, counts, nats, strict=True)},
            SEEN: [4, sum(nats)],
            UNSEEN: [0, 0.0],
        },
        "chunks": list(chunks),
        "curve": [list(point) for point in curve],
    }


def side(*losses, **more):
    runs = [run(seed, loss, **more) for seed, loss in enumerate(losses, start=1)]
    return {"side": "x", "rates": {"1": losses[0]}, "best_rate": "1", "runs": runs}


def test_differences_are_paired_by_seed():
    found = record.gain(side(2.0, 3.0, 4.0), side(1.85, 2.8, 3.75))
    assert found["validation"] == pytest.approx(0.2)
    assert found["each"] == pytest.approx([0.15, 0.2, 0.25])
    assert found["error"] == pytest.approx(0.05 / math.sqrt(3))
    assert found["over"] == "seeds"
    assert found["verdict"] == "gain"
    assert found["test"] == pytest.approx(0.2)
    assert found["windowed"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mean", "error", "count", "expected"),
    [
        (0.2, 0.2 / 4.2, 3, "not significant"),
        (0.2, 0.2 / 4.4, 3, "gain"),
        (-0.2, 0.2 / 4.4, 3, "loss"),
        (0.2, 0.2 / 2.7, 5, "not significant"),
        (0.2, 0.2 / 2.8, 5, "gain"),
        (0.2, 0.2 / 2.0, 109, "gain"),
        (0.0, 0.0, 3, "not significant"),
        (-1e-8, 1e-9, 3, "not significant"),
        (0.2, None, 1, "not significant"),
    ],
)
def test_few_seeds_need_more_standard_errors(mean, error, count, expected):
    assert record.verdict(mean, error, count) == expected


def test_what_has_no_seeds_goes_with_each_and_errs_over_the_text():
    found = record.gain(side(2.0), side(1.9, 1.8, 1.7))
    assert found["each"] == pytest.approx([0.1, 0.2, 0.3])
    alone = record.gain(side(2.0, chunks=(10.0, 12.0)), side(1.0, chunks=(9.0, 10.0)))
    assert alone["over"] == "text"
    # Pieces gained 1 and 2 nats: the sum has a deviation of sqrt(2) * sd.
    assert alone["error"] == pytest.approx(
        math.sqrt(0.5) / math.log(2) * math.sqrt(2) / 4,
    )


def test_runs_that_share_models_err_over_the_text():
    base, pair = side(2.0, 3.0, 4.0), side(1.9, 2.8, 3.7, chunks=(9.0, 10.0))
    found = record.gain(base, pair, shares=True)
    assert found["over"] == "text"
    assert found["validation"] == pytest.approx(0.2)
    assert found["error"] == pytest.approx(math.sqrt(0.5) / math.log(2) * math.sqrt(2) / 4)


def test_a_short_text_has_no_error_and_no_verdict():
    found = record.gain(side(2.0, chunks=(1.0,)), side(1.0, chunks=(0.5,)))
    assert found["error"] is None
    assert found["verdict"] == "not significant"


def test_kinds_add_up_to_the_whole():
    before = side(2.0, nats=[3.0, 2.0, 1.0, 0.0, 0.0])
    after = side(2.0, nats=[1.0, 2.5, 0.5, 0.0, 0.0])
    found = record.gain(before, after)["kinds"]
    assert found[NAMES[0]]["bits"] == pytest.approx(2.0 / math.log(2) / 4)
    assert found[NAMES[1]]["bits"] < 0
    total = sum(found[kind]["bits"] for kind in NAMES)
    assert total == pytest.approx(2.0 / math.log(2) / 4)
    assert found[SEEN]["bits"] == pytest.approx(total)


def test_at_equal_seconds_the_faster_side_ends():
    slow = [(0, 0.0, 6.0), (100, 10.0, 4.0), (200, 20.0, 2.0)]
    fast = [(0, 0.0, 6.0), (200, 5.0, 3.5)]
    found = record.gain(side(2.0, curve=slow), side(3.5, curve=fast))["equal_seconds"]
    assert found == {"seconds": 5.0, "bits": pytest.approx(5.0 - 3.5)}
    assert record.gain(side(2.0), side(3.5, curve=fast))["equal_seconds"] is None


def test_a_rate_at_the_edge_is_told():
    found = side(2.0)
    found |= {"rates": {"0.333": 2.2, "1": 2.1, "3": 2.0}, "best_rate": "3"}
    assert record.side(found)["at_edge"]
    assert not record.side(found | {"best_rate": "1"})["at_edge"]
    diverged = {"0.333": 2.2, "1": 2.1, "3": 2.0, "9": None}
    assert not record.side(found | {"rates": diverged})["at_edge"]


def test_every_character_is_of_one_kind():
    text = "First Citizen:\nWe, 2 men:\n\nA:b:\n"
    found = [KINDS[kind] for kind in kinds(text)]
    assert found[:14] == ["speaker"] * 14
    assert found[14] == "line end"
    assert found[15:18] == ["speaker"] * 3  # a line that ends with a colon and holds no other
    assert found[text.index("A")] == "first letter"
    assert found[text.index(":b")] == "space or punctuation"


def test_what_was_seen_in_training():
    train, targets = np.array([0, 1, 2, 3, 0, 1, 2]), np.array([3, 0, 1, 3])
    # 0 1 2 3 0 and 1 2 3 0 1 occur, 3 0 1 2 3 and 2 3 0 1 3 do not.
    assert seen(train, targets, 4).tolist() == [False, True, True, False]


def test_the_holdout_adds_up():
    rng = np.random.default_rng(0)
    splits = {
        name: rng.integers(0, 3, size).astype(np.uint8)
        for name, size in (("train", 50), ("validation", 1300), ("test", 700))
    }
    holdout = Holdout(splits, "a \n", None)
    nats_N = rng.random(2000)
    found = holdout.content(nats_N)
    assert found["validation"] == pytest.approx(bits(nats_N[:1300]))
    assert found["test"] == pytest.approx(bits(nats_N[1300:]))
    assert sum(found["chunks"]) == pytest.approx(nats_N[:1300].sum(), abs=1e-3)
    assert sum(found["kinds"][kind][0] for kind in KINDS) == 1300
    assert found["kinds"][SEEN][1] + found["kinds"][UNSEEN][1] == pytest.approx(nats_N[:1300].sum())
