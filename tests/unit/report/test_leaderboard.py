import json
import math

import numpy as np
import pytest

from charlm.errors import UserError
from charlm.files import write_array
from charlm.report import leaderboard, summary
from charlm.timings import training_key
from tests.unit.report.examples import (
    ENTROPY,
    LEAF,
    NO_TIMES,
    RESULTS,
    ensemble,
    metrics,
    result,
)


def test_the_best_streaming_validation_loss_comes_first():
    rows = leaderboard.rank(RESULTS, {"better": 130.0})
    assert [row["model"] for row in rows] == ["better", "middle", "worse"]
    assert rows[0]["streaming"]["validation"]["nats_per_char"] == 1.0
    for protocol in ("windowed", "windowed_256"):
        assert rows[0][protocol]["holdout"] == {
            "nats_per_char": 1.5,
            "bits_per_char": 1.5 / math.log(2),
        }
    assert [row["training_seconds"] for row in rows] == [130.0, None, None]


def test_several_seeds_give_mean_and_standard_deviation():
    seeds = result("better", 1.0, repeats=[metrics(1.1), metrics(1.2)])
    rows = leaderboard.rank([seeds, result("worse", 2.0)], {})
    assert rows[1]["over_seeds"] is None
    assert rows[0]["over_seeds"]["seeds"] == 3
    spread = rows[0]["over_seeds"]["streaming"]["validation"]
    assert spread["mean_bits_per_char"] == pytest.approx(1.1 / math.log(2))
    assert spread["sd_bits_per_char"] == pytest.approx(0.1 / math.log(2))


def test_an_ensemble_took_what_its_members_took_together():
    pair = result("pair", 0.9, ensemble=ensemble("better", "worse"))
    more = result("more", 0.8, ensemble=ensemble("pair", "another_seed"))
    seconds = {"better": 10.0, "worse": 2.5, "another_seed": 100.0}
    rows = leaderboard.rank([*RESULTS, pair, more], seconds)
    assert {row["model"]: row["training_seconds"] for row in rows} == {
        "better": 10.0,
        "worse": 2.5,
        "middle": None,
        "pair": 12.5,
        "more": 112.5,
    }
    twice = result("twice", 0.8, ensemble=ensemble("pair", "better"))
    assert leaderboard.rank([pair, twice], seconds)[0]["training_seconds"] == 12.5
    (row,) = leaderboard.rank([pair], {"better": 10.0})
    assert row["training_seconds"] is None
    assert row["members"] == ["better", "worse"]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def trained(folder, name, config, digests):
    """Write what a training leaves in a project; return its key."""
    write(folder / "models" / name / "config.json", config)
    write(folder / "data/encoded/digests.json", digests)
    return training_key(folder / "models" / name, folder / "data/encoded")


def test_a_training_is_the_same_with_other_weights_and_code_and_no_other_difference(tmp_path):
    config = {"model": "lstm", "training": {"steps": 9}, "weights_sha256": "a", "code": "b"}
    digests = {"train": "c", "test": "d"}
    key = trained(tmp_path, "lstm", config, digests)
    assert leaderboard.training_keys(tmp_path / "models", tmp_path / "data/encoded") == {
        "lstm": key
    }
    same = config | {"weights_sha256": "e", "code": "f"}
    assert trained(tmp_path, "again", same, dict(reversed(digests.items()))) == key
    assert trained(tmp_path, "longer", config | {"training": {"steps": 10}}, digests) != key
    assert trained(tmp_path, "elsewhere", config, digests | {"test": "g"}) != key


def test_only_times_of_the_same_training_are_shown(tmp_path):
    keys = {"same": "a", "changed": "b", "untimed": "c"}
    timings = {
        "same": {"key": "a", "seconds": 2.0, "machine": "ours"},
        "changed": {"key": "z", "seconds": 3.0, "machine": "another"},
        "untimed": {"key": None, "seconds": 4.0, "machine": "another"},
        "gone": {"key": "a", "seconds": 5.0, "machine": "another"},
    }
    for name, timing in timings.items():
        write(tmp_path / f"timings/{name}.json", timing)
    recorded = {"machine": "theirs", "date": "2026-11-23", "runs": timings}
    write(tmp_path / "recorded.json", recorded)
    local = leaderboard.local_times(tmp_path / "timings", keys)
    assert local == leaderboard.Times({"same": 2.0}, "ours")
    shown = leaderboard.recorded_times(tmp_path / "recorded.json", keys)
    assert shown == leaderboard.Times({"same": 2.0}, "theirs, 2026-11-23")
    assert leaderboard.recorded_times(tmp_path / "recorded.json", {}).origin == ""
    assert leaderboard.local_times(tmp_path / "nowhere", keys) == leaderboard.Times({}, "")


def test_a_clone_without_models_and_text_has_no_keys(tmp_path):
    assert leaderboard.training_keys(tmp_path / "models", tmp_path / "data/encoded") == {}


def test_the_bars_are_sorted_and_say_what_learns():
    dynamic = {part: {**LEAF, "bits_per_char": 1.25} for part in leaderboard.HELD_OUT}
    results = [*RESULTS, result("learner", 0.9, dynamic=dynamic)]
    rows = leaderboard.rank(results, {"better": 130.0, "learner": 0.45})
    bars = leaderboard.bars(results, rows, ENTROPY)
    assert bars[0] == leaderboard.Bar(1.25, "learner", "learning", "learning")
    learner = next(bar for bar in bars if bar.name == "learner" and bar.kind == "model")
    assert (learner.bits, learner.remark) == (pytest.approx(0.9 / math.log(2)), "0.5 s")
    assert leaderboard.Bar(2.3, "bzip2", "learning", "learning") in bars
    uniform = bars.pop()
    assert (uniform.name, uniform.kind) == ("uniform guess", "reference")
    assert uniform.bits == pytest.approx(math.log2(65))
    assert bars[-1] == leaderboard.Bar(5.0, "symbol frequencies", "", "reference")


def test_without_counts_of_single_symbols_there_is_no_such_bar():
    orders = ENTROPY["texts"]["whole"]["orders"][1:]
    entropy = ENTROPY | {"texts": {"whole": {"orders": orders}}}
    bars = leaderboard.bars(RESULTS, leaderboard.rank(RESULTS, {}), entropy)
    assert "symbol frequencies" not in [bar.name for bar in bars]


def excerpt(log_p_RV):
    return {"characters": len(log_p_RV)}


def details(log_p_RV):
    return {"rows": len(log_p_RV)}


def pieces(log_p_RV):
    return leaderboard.pieces(log_p_RV, np.zeros(len(log_p_RV), dtype=np.uint8))


def test_pieces_are_whole_and_in_bits():
    log_p_RV = np.log(np.full((1100, 4), 0.25, dtype=np.float32))
    log_p_RV[:512, 1] = np.log(0.5)
    targets_N = np.ones(1030, dtype=np.uint8)
    assert leaderboard.pieces(log_p_RV, targets_N) == pytest.approx([1.0, 2.0])
    assert leaderboard.pieces(log_p_RV[:500], targets_N) == []


def test_an_ensemble_has_no_windows_of_its_own():
    content = metrics(1.0)
    del content["windowed"], content["windowed_256"]
    (row,) = leaderboard.rank([result("both", 1.0, metrics=content)], {})
    assert row["windowed"] is row["windowed_256"] is None
    assert row["streaming"]["validation"]["nats_per_char"] == 1.0
    assert "  -  " in summary.as_text([row], NO_TIMES, NO_TIMES)


def test_missing_and_damaged_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.json is missing.*dvc repro"):
        leaderboard.read_result(tmp_path, "a", excerpt, details, pieces)
    write(tmp_path / "a/metrics.json", {})
    with pytest.raises(UserError, match=r"sample\.txt cannot be read .*dvc repro"):
        leaderboard.read_result(tmp_path, "a", excerpt, details, pieces)
    (tmp_path / "a/sample.txt").write_text("a")
    array = tmp_path / "a/log_probabilities.npy"
    with pytest.raises(UserError, match=r"log_probabilities\.npy is missing.*dvc repro"):
        leaderboard.read_result(tmp_path, "a", excerpt, details, pieces)
    write_array(array, np.zeros((30, 65), dtype=np.float16))
    for damaged in (array.read_bytes()[:200], b"", b"junk", array.read_bytes()[:60]):
        array.write_bytes(damaged)
        with pytest.raises(UserError, match=r"log_probabilities\.npy is damaged.*dvc repro"):
            leaderboard.read_result(tmp_path, "a", excerpt, details, pieces)
    for rows in ("1,x", "1", "1,2,3"):
        (tmp_path / "curve.csv").write_text(f"step,validation_nats\n{rows}\n")
        with pytest.raises(UserError, match=r"curve\.csv is damaged"):
            leaderboard.read_curve(tmp_path / "curve.csv")


def test_results_of_every_kind_are_read_in_one_way(tmp_path):
    folder = tmp_path / "a"
    write(folder / "metrics.json", {"parameters": 3})
    write_array(folder / "log_probabilities.npy", np.zeros((2, 3), dtype=np.float16))
    write(tmp_path / "a_2/metrics.json", {"parameters": 4})
    (folder / "sample.txt").write_text("a\r\nb", newline="")
    plain = leaderboard.read_result(tmp_path, "a", excerpt, details, pieces)
    assert (plain.name, plain.sample, plain.metrics) == ("a", "a\r\nb", {"parameters": 3})
    assert (plain.curve, plain.activations) == ([], {})
    assert (plain.ensemble, plain.dynamic, plain.members, plain.repeats) == (None, None, [], [])
    # A model that counts has a curve without points.
    (folder / "curve.csv").write_text("step,validation_nats\n")
    write(folder / "activations.json", {})
    assert leaderboard.read_result(tmp_path, "a", excerpt, details, pieces) == plain
    (folder / "curve.csv").write_text("step,validation_nats\n0,4.5\n10,3.5\n")
    write(folder / "activations.json", {"initial": {}})
    write(folder / "ensemble.json", {"members": [{"name": "b"}]})
    write(folder / "dynamic.json", {"every": 3})
    full = leaderboard.read_result(tmp_path, "a", excerpt, details, pieces, ["a_2"])
    assert full.curve[1] == {"step": 10.0, "validation_nats": 3.5}
    assert full.activations == {"initial": {}}
    assert full.members == ["b"]
    assert full.dynamic == {"every": 3}
    assert full.repeats == [{"parameters": 4}]


def test_curves_are_joined_for_dvc_plots():
    rows = leaderboard.join_curves([result("a", 1.0), result("b", 2.0)])
    assert len(rows) == 6
    assert rows[1] == {
        "model": "a",
        "characters": 100.0,
        "bits_per_char": pytest.approx(3.5 / math.log(2)),
    }
    assert rows[4]["model"] == "b"


def test_the_ladder_is_one_table_for_dvc_plots():
    table = leaderboard.ladder(leaderboard.rank(RESULTS, {}), ENTROPY)
    kinds = [row["kind"] for row in table]
    assert (kinds.count("curve"), kinds.count("model"), kinds.count("compressor")) == (15, 3, 1)
    held = [row for row in table if row["series"] == "Kneser-Ney, on the holdout"]
    assert [(row["context"], row["bits_per_char"]) for row in held] == [
        (0, 6.0),
        (1, 3.0),
        (2, 3.5),
    ]
    assert all(row["context"] >= 4 for row in table if row["kind"] != "curve")
