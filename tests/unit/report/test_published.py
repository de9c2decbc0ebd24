"""The table of sources, from results made up for the purpose."""

import json
import math
import shutil

import pytest

from benchmarks import sources as long_runs
from charlm.files import read_json
from charlm.report import published
from tests.workspace import PROJECT, at_scale, encode_text

QUICK = at_scale("quick")


def draws(mean, sd=0.02):
    return [mean - sd, mean + sd, mean, mean - sd, mean + sd]


RECORDED = {
    "spread": {"batch_nats": {"mlp_all": {"0": draws(25.0, 1.0), "9000": draws(2.85)}}},
    "lmnet_64": {
        "curve": [
            {"step": 0, "batch_nats": 4.1602, "batches_sd": 0.001},
            {"step": 500, "batch_nats": 2.45, "batches_sd": 0.01},
        ]
    },
    "lmnet_512": {
        "curve": [
            {"step": 0, "batch_nats": 4.1741, "batches_sd": 0.001},
            {"step": 500, "batch_nats": 1.82, "batches_sd": 0.01},
        ]
    },
    "starts": {"lmnet": {"64": draws(4.16), "512": draws(4.17)}},
    "rnn": {
        "steps": 2100,
        "seconds": 900,
        "machine": "a machine",
        "threads": 2,
        "shared": False,
        "losses": {"windowed": {"seen": {"nats_per_char": 1.7}}},
        "curve": [{"step": 2100, "batch_nats": 1.71}],
    },
}


def make_evidence(folder, corpus, settings=QUICK, recorded=RECORDED, curves=None):
    """Results of every entry, with a curve that has the same loss at every step asked for."""
    orders = [
        {
            "order": n,
            "estimates": {
                "plug_in": {
                    "bits_per_char": float(published.ENTROPIES.get(n, "3")),
                    "conditional_bits_per_char": float(published.CONDITIONAL.get(n - 1, "3")),
                    "compression_ratio": 0.59742,
                }
            },
        }
        for n in range(1, 6)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "entropy.json").write_text(json.dumps({"texts": {"whole": {"orders": orders}}}))
    for name, entry in settings.trained.items():
        (folder / name).mkdir(exist_ok=True)
        text = "seen" if entry.trained_on == "all" else "holdout"
        metrics = {"windowed": {text: {"nats_per_char": 2.5}}}
        (folder / name / "metrics.json").write_text(json.dumps(metrics))
        rows = (curves or {}).get(name, {0: 4.2, 10: 5.19, 600: 2.0})
        lines = ["step,batch_nats", *(f"{step},{nats}" for step, nats in rows.items())]
        (folder / name / "curve.csv").write_text("\n".join(lines) + "\n")
    return published.Evidence(
        settings, folder, recorded, corpus, draws(4.6, 0.2), 2.46, published.GREETING_IDS
    )


@pytest.fixture(scope="module")
def corpus(corpus_path):
    return corpus_path


def by_figure(rows):
    return {(row.entry, row.figure): row for row in rows}


def test_every_published_figure_has_a_row(tmp_path, corpus):
    rows = published.table(make_evidence(tmp_path, corpus))
    figures = [row.published for row in rows if row.published is not None]
    counts = {letter: sum(row.document == letter for row in rows) for letter in "ABCDE"}
    # A: 9 entropies, 10 + 9 losses, 4 in bits / 8, the time. D: 2 losses, 10 softmax, 2 more.
    assert counts == {"A": 33, "B": 20, "C": 8, "D": 14, "E": 5}
    for figure in (4.7794, 1.7672, 2.6143, 1.50, 0.2879, 1.8172, 1.1721, 5.2003, 25.36, 2.84, 2.90):
        assert figure in figures
    for figure in (4.9098, 2.4713, 0.86, 0.8, 325_181, 329_281):
        assert figure in figures
    assert len({(row.document, row.entry, row.figure) for row in rows}) == len(rows)


def test_a_draw_is_judged_by_its_measured_spread(tmp_path, corpus):
    sd = math.sqrt(0.0004 * 4 / 4)
    allowed = 0.005 + 2 * math.sqrt(2) * sd
    for ours, verdict in (
        (2.84 + allowed - 1e-6, published.REPRODUCED),
        (2.84 - allowed + 1e-6, published.REPRODUCED),
        (2.84 + allowed + 1e-6, published.DIFFERS),
    ):
        evidence = make_evidence(tmp_path, corpus, curves={"mlp_all": {0: 22.0, 9000: ours}})
        row = by_figure(published.table(evidence))["mlp_all", "step 9,000, one batch of 1,024"]
        assert row.verdict == verdict
        assert row.tolerance == pytest.approx(allowed)
        assert row.difference == pytest.approx(ours - 2.84)
        assert row.full_pass == {"text": "seen", "nats_per_char": 2.5}
        assert "mean 2.85" in row.remark


def test_what_was_not_run_or_not_measured_is_never_called_reproduced(tmp_path, corpus):
    rows = by_figure(published.table(make_evidence(tmp_path, corpus, recorded={})))
    for key in (
        ("mlp_all", "step 9,000, one batch of 1,024"),  # this run's curve does not reach it
        ("shake_lstm", "epoch 20, ten validation batches"),
        ("lmnet_all", "step 500, one training batch"),
    ):
        assert rows[key].verdict == published.NOT_RUN
    step = rows["mlp_all", "step 0, one batch of 1,024"]
    assert (step.ours, step.verdict) == (4.2, published.UNMEASURED)
    # The quick budget has a step 500 too, but with other batches: it is not the published one.
    assert rows["lmnet_all", "step 500, one training batch"].ours is None


def test_exact_figures_agree_to_their_last_digit(tmp_path, corpus):
    rows = by_figure(published.table(make_evidence(tmp_path, corpus)))
    assert rows["rnn", "parameters with 61 symbols"].ours == 325_181
    for (entry, figure), row in rows.items():
        if entry in ("entropy", "rnn", "encoding") or "softmax" in figure:
            assert row.verdict == published.REPRODUCED, figure
    assert published.compare("A", "x", "y", "1.25", 1.2549, 0.0).verdict == published.REPRODUCED
    assert published.compare("A", "x", "y", "1.25", 1.2551, 0.0).verdict == published.DIFFERS


def test_the_width_that_comes_nearest_stands_for_lmnet(tmp_path, corpus):
    rows = by_figure(published.table(make_evidence(tmp_path, corpus)))
    row = rows["lmnet_all", "step 500, one training batch"]
    assert row.ours == 1.82
    assert "n_embd 512, the nearest of those tried (64: 2.4500, 512: 1.8200)" in row.remark
    assert row.verdict == published.REPRODUCED
    start = rows["lmnet_all", "step 0, one training batch"]
    assert start.tolerance == pytest.approx(0.00005 + 2 * math.sqrt(2) * 0.02)
    assert rows["lmnet_all", "step 1,000, one training batch"].verdict == published.NOT_RUN


def test_a_full_run_fills_the_curve_of_lmnet(tmp_path, corpus):
    curve = dict.fromkeys(range(0, 10001, 500), 1.7)
    evidence = make_evidence(tmp_path, corpus, at_scale("full"), curves={"lmnet_all": curve})
    row = by_figure(published.table(evidence))["lmnet_all", "step 9,500, one training batch"]
    assert (row.ours, row.verdict) == (1.7, published.DIFFERS)
    assert row.remark == "n_embd 256"


def test_recorded_runs_of_whole_budgets_fill_what_the_pipeline_does_not_run(tmp_path, corpus):
    point = {"step": 9500, "batch_nats": 1.16}
    curve = [{"step": 500, "batch_nats": 1.81, "batches_sd": 0.01}, point]
    seen = {"windowed": {"seen": {"nats_per_char": 1.2}}}
    whole = {
        "published_lmnet": {"architecture": {"n_embd": 512}, "curve": curve},
        "published_rnn": {"curve": [{"step": 26_100, "batch_nats": 1.5}], "losses": seen},
    }
    rows = by_figure(published.table(make_evidence(tmp_path, corpus, recorded=RECORDED | whole)))
    row = rows["lmnet_all", "step 9,500, one training batch"]
    assert (row.ours, row.evidence) == (1.16, "python -m benchmarks.sources published_lmnet")
    assert rows["lmnet_all", "step 500, one training batch"].ours == 1.82
    row = rows["rnn_all", "26,100 steps, its epochs on tiny Shakespeare, last batch"]
    assert (row.ours, row.full_pass["nats_per_char"]) == (1.5, 1.2)
    row = rows["lstm_output_gate_all", "52,200 steps, its epochs on tiny Shakespeare, last batch"]
    assert row.verdict == published.NOT_RUN


def test_figures_of_tiny_shakespeare_are_not_compared_on_another_text(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("something else")
    rows = published.table(make_evidence(tmp_path / "results", other))
    assert {row.verdict for row in rows if row.document in "BC"} == {published.OTHER_CORPUS}
    assert by_figure(rows)["rnn", "parameters with 65 symbols"].verdict == published.REPRODUCED
    assert by_figure(rows)["bigram", "untrained, one batch of 4 x 8"].ours is None


def test_an_entry_that_was_left_out_leaves_rows_without_figures(tmp_path, corpus):
    models = {"lstm": QUICK.models["lstm"]}
    settings = QUICK.model_copy(update={"models": models, "reproductions": {}})
    rows = by_figure(published.table(make_evidence(tmp_path, corpus, settings)))
    assert rows["perceptron_all", "step 0, one batch of 1,024"].verdict == published.NOT_RUN
    assert rows["bigram", "step 10,000, one batch of 32 x 8"].ours is None


def test_the_recorded_runs_are_of_the_published_budgets():
    """What the table takes from benchmarks/sources.json was made with the documents' batches."""
    recorded = read_json(PROJECT / "benchmarks/sources.json")
    assert recorded["command"] == "python -m benchmarks.sources"
    published = {"lmnet": (128, 256, 500), "shake_lstm": (64, 128, 2000), "rnn": (128, 100, 2100)}
    published["lstm_scratch"] = (128, 100, 4200)
    for name, run in recorded.items():
        if name in ("command", "spread", "starts"):
            continue
        kind = "lmnet" if name.startswith("lmnet_") else name
        assert (run["batch"], run["block"], run["steps"]) == published[kind]
        assert run["machine"]


def test_a_long_run_records_what_the_table_reads(tmp_path, monkeypatch, corpus_text):
    """Each kind of run, on a few thousand characters and budgets of seconds."""
    (tmp_path / "encoded").mkdir()
    encode_text(corpus_text[:20_000], tmp_path / "encoded")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.setattr(long_runs, "ENCODED", tmp_path / "encoded")
    monkeypatch.setattr(long_runs, "OUTPUT", tmp_path / "sources.json")
    at_published = long_runs.at_scale

    def small(scale, **changes):
        for name in ("lmnet", "shake_lstm", "rnn"):
            section = f"models__{name}__full__"
            changes |= {f"{section}batch": 2, f"{section}block": 8, f"{section}steps": 2}
            changes |= {f"{section}validate_every": 1, f"models__{name}__sampling__length": 5}
        changes |= {"models__rnn__full__epochs": None, "models__rnn__full__hidden": 8}
        changes |= {"models__shake_lstm__full__hidden": 8, "models__lmnet__full__n_embd": 8}
        return at_published(scale, **changes)

    monkeypatch.setattr(long_runs, "at_scale", small)
    long_runs.main(["lmnet_64", "shake_lstm", "rnn"])
    found = read_json(tmp_path / "sources.json")
    assert list(found) == ["command", "rnn", "lmnet_64", "shake_lstm"]
    assert found["lmnet_64"]["curve"][-1].keys() >= {"batch_nats", "batches_sd"}
    assert found["shake_lstm"]["curve"][-1].keys() >= {"train_nats", "ten_batches_nats"}
    assert found["rnn"]["trained_on"] == "all"
    assert found["rnn"]["losses"]["windowed"]["seen"]["characters"] == 19_999
    assert len(found["rnn"]["sample"]) == 6
    with pytest.raises(SystemExit, match="unknown run lmnet_63"):
        long_runs.main(["lmnet_63"])
