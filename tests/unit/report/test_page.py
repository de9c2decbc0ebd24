import copy
import json
import math
import re

import pytest

from charlm.errors import UserError
from charlm.report import page, summary

LEAF = {
    "nats_per_char": 1.5,
    "bits_per_char": 1.5 / math.log(2),
    "bits_per_byte": 2.0,
    "perplexity": 4.5,
    "accuracy": 0.5,
    "characters": 10,
}
ENTROPY = {
    "characters": 100,
    "symbols": 65,
    "texts": {
        "whole": {
            "orders": [
                {
                    "order": n,
                    "distinct": 10 * n,
                    "once_share": 0.25,
                    "estimates": {
                        name: {"bits_per_char": 5 / n, "conditional_bits_per_char": 5 / n}
                        for name in page.ESTIMATORS
                    },
                }
                for n in (1, 2, 3)
            ]
        }
    },
    "held_out": [
        {
            "order": n,
            **{part: {"bits_per_char": 6 / n} for part in ("validation", "test", "holdout")},
        }
        for n in (1, 2)
    ],
    "compressors": [{"name": "bzip2", "holdout": {"bits_per_char": 2.4, "nats_per_char": 1.6636}}],
}


LAYERS = [
    {
        "layer": "output",
        "kind": "logits",
        "mean_abs": 0.25,
        "sd": 0.3125,
        "gradient_mean_abs": None,
        "gradient_sd": None,
        "first_values": [0.5, -0.25],
    }
]
SOURCES = {
    "verdicts": {"reproduced": 1, "not run at the published budget": 1},
    "rows": [
        {
            "document": "B",
            "entry": "lmnet_all",
            "figure": f"step {step}",
            "published": 4.1738,
            "ours": ours,
            "difference": None if ours is None else ours - 4.1738,
            "tolerance": None if ours is None else 0.01,
            "verdict": verdict,
            "full_pass": {"text": "seen", "nats_per_char": 1.75} if ours else None,
            "evidence": "dvc repro",
            "remark": "<b>wide</b>",
        }
        for step, ours, verdict in (
            (0, 4.1751, "reproduced"),
            (500, None, "not run at the published budget"),
        )
    ],
    "this_run": {
        "lmnet_all": {
            "trained_on": "all",
            "steps": 600,
            "full_pass": {"text": "seen", "nats_per_char": 1.75},
        }
    },
}


def result(name, nats, sample="ROMEO: hello", *, counted=False, mixture=None, adaptive=None):
    splits = dict.fromkeys(page.HELD_OUT, LEAF)
    metrics = {
        "model": name,
        "parameters": 1234,
        "context_length": None,
        "windowed": copy.deepcopy(splits),
        "streaming": copy.deepcopy(splits),
    }
    metrics["streaming"]["validation"] = {
        **LEAF,
        "nats_per_char": nats,
        "bits_per_char": nats / math.log(2),
    }
    curve = [
        {"characters": c, "train_nats": 3.9, "validation_nats": 4.0 - c / 200}
        for c in (0.0, 100.0, 200.0)
    ]
    activations = {
        when: {"nats_per_char": 4.2, "layers": LAYERS} for when in ("initial", "trained")
    }
    passage = {
        "text": "Go <b>\n",
        "bits": [0.5, 9.0, 1.0, 2.0, 3.0, 0.0, 4.0],
        "guesses": ["G<", "ox", " n", "<b", "bB", "> ", "\n "],
        "percent": [[70, 3]] * 7,
    }
    if counted or mixture:
        return page.Result(name, metrics, sample, passage, [], None, mixture, None)
    return page.Result(name, metrics, sample, passage, curve, activations, None, adaptive)


RESULTS = [result("worse", 2.0), result("better", 1.0), result("middle", 1.2)]


def test_the_best_streaming_validation_loss_comes_first():
    rows = page.leaderboard(RESULTS, {"better": 130.0}, {})
    assert [row["model"] for row in rows] == ["better", "middle", "worse"]
    assert rows[0]["streaming"]["validation"]["nats_per_char"] == 1.0
    assert rows[0]["windowed"]["holdout"] == {
        "nats_per_char": 1.5,
        "bits_per_char": 1.5 / math.log(2),
    }
    assert [row["training_seconds"] for row in rows] == [130.0, None, None]


def test_several_seeds_give_mean_and_standard_deviation():
    others = [result("better", nats).metrics for nats in (1.1, 1.2)]
    rows = page.leaderboard(RESULTS, {}, {"better": others})
    assert [row["over_seeds"] for row in rows[1:]] == [None, None]
    found = rows[0]["over_seeds"]
    assert found["seeds"] == 3
    spread = found["streaming"]["validation"]
    assert spread["mean_bits_per_char"] == pytest.approx(1.1 / math.log(2))
    assert spread["sd_bits_per_char"] == pytest.approx(0.1 / math.log(2))
    html = page.page(RESULTS, rows, ENTROPY, SOURCES, "", "smoke")
    assert "<small>1.5870 ± 0.1443</small>" in html
    assert html.count("3 seeds") == 1


def test_the_first_screen_says_who_wins_and_by_how_much():
    adaptive = {part: {**LEAF, "bits_per_char": 1.25} for part in page.HELD_OUT}
    results = [*RESULTS, result("learner", 0.9, adaptive=adaptive)]
    rows = page.leaderboard(results, {"better": 130.0, "learner": 0.45}, {})
    bars = page.bars(results, rows, ENTROPY)
    assert bars[0] == (1.25, "learner", "adaptive", "adaptive")
    assert (LEAF["bits_per_char"], "learner", "0.5 s", "model") in bars
    assert (2.4, "bzip2", "adaptive", "adaptive") in bars
    assert bars[-1] == (pytest.approx(math.log2(65)), "nothing", "", "reference")
    html = page.page(results, rows, ENTROPY, SOURCES, "", "smoke")
    assert "<b>learner</b> predicts" in html
    assert "after 0.5 seconds of training" in html


def test_times_have_a_picture_of_their_own_where_they_are_known():
    rows = page.leaderboard(RESULTS, {"better": 130.0}, {})
    assert "seconds of training" in page.page(RESULTS, rows, ENTROPY, SOURCES, "", "smoke")
    assert "seconds of training" not in page()


def test_the_terminal_table_has_a_line_a_model():
    lines = summary.as_text(page.leaderboard(RESULTS, {"better": 130.0}, {})).splitlines()
    assert len(lines) == 5
    assert re.match(r"better +1,234  1\.4427 .* 130 s$", lines[2])
    assert lines[3].endswith(" -")


def page(results=RESULTS, entropy=ENTROPY):
    rows = page.leaderboard(results, {}, {})
    return page.page(results, rows, entropy, SOURCES, "", "smoke")


def test_the_page_is_self_contained_and_the_same_every_time():
    html = page()
    assert html == page()
    assert "<svg" in html
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert "url(http" not in html


def test_ids_of_the_pictures_do_not_collide():
    ids = re.findall(r' id="([^"]+)"', page())
    repeated = {name for name in ids if ids.count(name) > 1}
    assert not repeated


def test_the_entropy_ladder_has_curves_models_and_compressors():
    html = page()
    for text in (
        "n-gram with Kneser-Ney smoothing, on the holdout",
        "Grassberger, of the text itself",
        "bzip2 (adaptive) 2.400",
        "better 2.164",
        "Cover and King 1978: 1.34",
        "It stops falling at 1 characters of context and\n3.000 bits",
    ):
        assert text in html


def test_a_model_that_counts_is_ranked_and_has_no_curve_and_no_layers():
    html = page([*RESULTS, result("counting", 1.1, counted=True)])
    assert "<h3>counting</h3>" in html
    assert "Layers of better" in html
    assert "Layers of counting" not in html


def test_a_mixture_says_what_its_members_give():
    member = {"validation_nats_per_char": 1.4, "likelier": 0.57, "linear": 0.65, "geometric": 0.56}
    mixture = {
        "mixing": "geometric",
        "members": [{"name": "better", **member}, {"name": "worse", **member}],
        "validation_nats_per_char": {"linear": 1.36, "geometric": 1.354},
    }
    html = page([*RESULTS, result("both", 0.9, mixture=mixture)])
    assert "What both is made of" in html
    assert "1.3600 nats per character and the geometric one 1.3540" in html
    assert "<td>57.0 %</td>" in html
    assert "What better is made of" not in html


def test_adaptive_losses_stand_beside_compressors_and_nowhere_else():
    adaptive = {part: {**LEAF, "nats_per_char": 1.2345} for part in page.HELD_OUT}
    html = page([*RESULTS, result("learner", 0.9, adaptive=adaptive)])
    table = html[html.index("Learning while being scored") : html.index("<h2>Learning</h2>")]
    assert table.count("1.2345") == 3
    assert "1.6636" in table
    assert "1.2345" not in html.replace(table, "")
    assert "Learning while being scored" not in page()


def test_a_large_text_has_a_ladder_without_held_out_losses():
    html = page(entropy={**ENTROPY, "held_out": [], "compressors": []})
    assert "Grassberger, of the text itself" in html
    assert "too large for held-out losses" in html
    assert "with Kneser-Ney smoothing" not in html


def test_the_table_of_sources_shows_verdicts_and_never_pretends():
    html = page()
    assert "1 of 2 reproduced" in html
    assert '<td class="met">reproduced</td>' in html
    assert "+0.0013" in html
    assert "<td>not run at the published budget</td>" in html
    assert "1.7500 nats (seen, in training)" in html
    assert "&lt;b&gt;wide&lt;/b&gt;" in html


def test_a_sample_stays_text():
    html = page([*RESULTS, result("evil", 3.0, "<script>alert(1)</script>")])
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


def test_a_passage_shows_what_each_character_cost_and_stays_text():
    html = page()
    # 9 bits are as strong as 8; the text of a corpus is no markup, here and in what scripts read.
    assert '<span style="--a:0.65">o</span>' in html
    assert '<span style="--a:0.16">&lt;</span>' in html
    assert "<b>" not in html[html.index('id="passage"') :][:600]
    found = re.search(r'id="expected">(.*?)</script>', html, re.DOTALL).group(1)
    assert "<" not in found
    passages = json.loads(found)
    assert list(passages) == ["better", "middle", "worse"]
    assert passages["better"]["text"] == "Go <b>\n"


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"curve\.csv cannot be read .*dvc repro"):
        page.read_result(tmp_path, trained=True, mixed=False, adapts=False)


def test_results_are_read(tmp_path):
    (tmp_path / "curve.csv").write_text("step,validation_nats\n0,4.5\n10,3.5\n")
    (tmp_path / "sample.txt").write_text("a\r\nb", newline="")
    (tmp_path / "metrics.json").write_text(json.dumps({"parameters": 3}))
    (tmp_path / "passage.json").write_text(json.dumps({"text": "a"}))
    (tmp_path / "activations.json").write_text(json.dumps({"initial": {}}))
    read = page.read_result(tmp_path, trained=True, mixed=False, adapts=False)
    assert read.curve[1] == {"step": 10.0, "validation_nats": 3.5}
    assert read.sample == "a\r\nb"
    assert read.metrics == {"parameters": 3}
    assert read.activations == {"initial": {}}
    (tmp_path / "curve.csv").unlink()
    (tmp_path / "activations.json").unlink()
    counted = page.read_result(tmp_path, trained=False, mixed=False, adapts=False)
    assert (counted.curve, counted.activations, counted.mixture) == ([], None, None)
    (tmp_path / "mixture.json").write_text(json.dumps({"mixing": "linear"}))
    mixed = page.read_result(tmp_path, trained=False, mixed=True, adapts=False)
    assert mixed.mixture == {"mixing": "linear"}
    (tmp_path / "adaptive.json").write_text(json.dumps({"every": 3}))
    adapts = page.read_result(tmp_path, trained=False, mixed=False, adapts=True)
    assert adapts.adaptive == {"every": 3}


def test_a_training_has_a_picture_of_its_losses_and_layers():
    found = result("a", 1.0)
    picture = page.training_picture(found.curve, found.activations)
    assert picture.startswith("<svg")
    for text in ("validation", "trained", "output", "characters trained on"):
        assert f">{text}<" in picture


def test_curves_are_joined_for_dvc_plots():
    rows = page.joined_curves([result("a", 1.0), result("b", 2.0)])
    assert len(rows) == 6
    assert rows[1] == {
        "model": "a",
        "characters": 100.0,
        "bits_per_char": pytest.approx(3.5 / math.log(2)),
    }
    assert rows[4]["model"] == "b"


def test_the_ladder_is_one_table_for_dvc_plots():
    table = page.ladder(page.leaderboard(RESULTS, {}, {}), ENTROPY)
    kinds = [row["kind"] for row in table]
    assert (kinds.count("curve"), kinds.count("model"), kinds.count("compressor")) == (14, 3, 1)
    held = [row for row in table if row["series"] == "Kneser-Ney, on the holdout"]
    assert [(row["context"], row["bits_per_char"]) for row in held] == [(0, 6.0), (1, 3.0)]
    assert all(row["context"] >= 4 for row in table if row["kind"] != "curve")


def test_labels_keep_apart_and_never_below_their_level():
    assert page.spread([1.0, 1.1, 3.0], 0.5) == [1.0, 1.5, 3.0]


def test_a_zoo_of_any_size_has_a_page():
    assert "model19" in page([result(f"model{n}", 1 + n / 10) for n in range(20)])
    assert "alone" in page([result("alone", 1.0)])
