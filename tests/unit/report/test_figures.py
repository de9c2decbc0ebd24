import pytest

from charlm.report import figures, leaderboard
from tests.unit.report.examples import ENTROPY, RESULTS, result


def test_times_have_a_picture_of_their_own_where_they_are_known():
    known, unknown = (
        figures.learning_picture(RESULTS, leaderboard.rank(RESULTS, seconds))
        for seconds in ({"better": 130.0}, {})
    )
    assert "seconds of training" in known
    assert "seconds of training" not in unknown
    assert "characters trained on" in known
    assert "characters trained on" in unknown


def test_the_ladder_names_models_compressors_and_literature():
    rows = leaderboard.rank(RESULTS, {})
    picture = figures.ladder_picture(rows, ENTROPY, {"Cover and King 1978": 1.34})
    for text in (
        "n-gram with Kneser-Ney smoothing, on the holdout",
        "Grassberger, of the text itself",
        "bzip2 (compressor) 2.400",
        "better 2.164",
        "Cover and King 1978: 1.34",
    ):
        assert f">{text}<" in picture
    large = ENTROPY | {"held_out": [], "compressors": []}
    assert "Kneser-Ney" not in figures.ladder_picture(rows, large, {})


def test_pictures_are_the_same_every_time():
    pictures = [figures.start_picture(RESULTS, 4.2) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert ">uniform guess: 4.20 nats<" in pictures[0]


def test_a_model_that_counts_is_in_no_picture_of_trainings():
    results = [*RESULTS, result("counting", 1.1, by_steps=False)]
    rows = leaderboard.rank(results, {})
    assert "counting" not in figures.learning_picture(results, rows)
    assert "counting" not in figures.start_picture(results, 4.2)


@pytest.mark.parametrize(
    ("levels", "heights"),
    [([1.0, 1.1, 3.0], [1.0, 1.5, 3.0]), ([1.0, 1.0, 1.0], [1.0, 1.5, 2.0]), ([], [])],
)
def test_labels_keep_apart_and_never_below_their_level(levels, heights):
    assert figures.spread(levels, 0.5) == heights
