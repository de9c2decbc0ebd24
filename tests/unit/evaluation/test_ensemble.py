import json
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from charlm import models, results, saved_model
from charlm.data.encoding import SPLITS
from charlm.evaluation import ensemble, loss
from charlm.files import write_array
from stages import ensemble as stage
from tests.workspace import PROJECT, encode_text
from tests.zoo import SMOKE, config

PAIR = st.lists(st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)), min_size=1, max_size=40)


def test_a_pencil_case():
    """Two coins: one says 3/4 heads, the other 1/4; of four throws three are heads.

    w 3/4 + (1 - w) 1/4 = 3/4 at w = 1. Of two heads in four the best is 1/2 each.
    """
    heads, tails = [3 / 4, 1 / 4], [1 / 4, 3 / 4]
    nats = -np.log(np.array([heads, heads, heads, tails]).T)
    weights, mean = ensemble.linear(nats)
    assert weights == pytest.approx([1, 0], abs=1e-3)
    assert mean == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4, abs=1e-6)
    weights, mean = ensemble.linear(-np.log(np.array([heads, heads, tails, tails]).T))
    assert weights == pytest.approx([0.5, 0.5])
    assert mean == pytest.approx(math.log(2))


@given(PAIR)
def test_linear_weights_are_no_worse_than_any_others(pairs):
    nats = np.array(pairs).T
    weights, mean = ensemble.linear(nats)
    assert weights.sum() == pytest.approx(1)
    for share in np.linspace(0, 1, 21):
        other = -np.log(share * np.exp(-nats[0]) + (1 - share) * np.exp(-nats[1])).mean()
        assert mean <= other + 1e-4


@given(st.integers(0, 1000))
def test_geometric_exponents_are_no_worse_than_any_others(seed):
    random = np.random.default_rng(seed)
    log_p = np.log(random.dirichlet(np.ones(4), (2, 30)))
    targets = random.integers(0, 4, 30)
    weights, mean = ensemble.geometric(log_p, targets)

    def mean_nats(exponents):
        logits = np.tensordot(exponents, log_p, axes=1)
        return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(30), targets]).mean()

    assert mean == pytest.approx(mean_nats(weights))
    for other in random.normal(0, 1, (20, 2)):
        assert mean <= mean_nats(weights + other) + 1e-7
    assert mean <= min(mean_nats([1, 0]), mean_nats([0, 1])) + 1e-7


@pytest.mark.parametrize("way", ["linear", "geometric"])
def test_an_ensemble_is_its_formula_over_its_members(way):
    settings = {
        "mixing": way,
        "members": [
            {"model": name, "block": 8, "architecture": SMOKE.run(name).architecture}
            for name in ("lstm", "bigram")
        ],
    }
    model = models.build("ensemble", 7, 8, settings).eval()
    model.register_buffer("weights_K", torch.tensor([0.25, 0.75]))
    ids = torch.randint(7, (2, 12))
    p = [member(ids)[0].softmax(-1) for member in model.members]
    mixed = 0.25 * p[0] + 0.75 * p[1] if way == "linear" else p[0] ** 0.25 * p[1] ** 0.75
    expected = mixed / mixed.sum(-1, keepdim=True)
    torch.testing.assert_close(model(ids)[0].softmax(-1), expected)
    assert model.context_length is None
    assert model.parameter_count == sum(m.parameter_count for m in model.members) + 2


def test_a_large_text_is_worked_on_in_parts(monkeypatch):
    logits = torch.randn(2, 100, 7, generator=torch.Generator().manual_seed(1))
    log_p, targets = logits.log_softmax(-1).numpy(), np.arange(100) % 7
    whole_K, whole = ensemble.geometric(log_p, targets)
    monkeypatch.setattr(ensemble, "PART_BYTES", 8 * 2 * 7 * 33)
    parts_K, parts = ensemble.geometric(log_p, targets)
    assert parts_K == pytest.approx(whole_K, rel=1e-6)
    assert parts == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gpt", "kneser_ney"])
def test_log_probabilities_are_those_that_streaming_scores_and_those_of_a_carried_state(
    name, corpus_ids
):
    torch.manual_seed(0)
    block = SMOKE.run(name).training.block
    model = models.build(SMOKE.run(name).model, 65, block, SMOKE.run(name).architecture)
    model.prepare(corpus_ids["train"][:50_000])
    model.eval()
    ids = corpus_ids["validation"][:10_001]
    rows = torch.empty(10_000, 65, dtype=torch.float16)
    nats, _ = loss.streaming(model, ids, rows_RV=rows)
    found = rows.double()
    assert found.exp().sum(-1) == pytest.approx(torch.ones(10_000, dtype=torch.float64), abs=3e-3)
    torch.testing.assert_close(-found[range(10_000), ids[1:].long()], nats, atol=0, rtol=1e-3)
    carried = model(ids[None, :-1].long())[0][0].log_softmax(-1)
    torch.testing.assert_close(found, carried.double(), atol=1e-3, rtol=1e-3)


def test_rows_end_where_the_room_does(corpus_ids):
    model = models.build("bigram", 65, 8, {}).eval()
    rows = torch.full((100, 65), 7.0, dtype=torch.float16)
    whole, _ = loss.streaming(model, corpus_ids["validation"][:20_001])
    nats, _ = loss.streaming(model, corpus_ids["validation"][:20_001], rows_RV=rows)
    assert torch.equal(whole, nats)
    assert (rows < 0).all()


@pytest.mark.parametrize("mixing", ["linear", "geometric"])
def test_scores_by_arithmetic_are_those_of_the_model(mixing, corpus_ids):
    torch.manual_seed(0)
    ids = corpus_ids["validation"][:9_001]
    described = [
        {"model": name, "block": 8, "architecture": SMOKE.run(name).architecture}
        for name in ("lstm", "bigram")
    ]
    settings = {"mixing": mixing, "members": described}
    model = models.build("ensemble", 65, 8, settings).eval()
    model.register_buffer("weights_K", torch.tensor([0.25, 0.75]))
    rows = torch.empty(2, 9_000, 65, dtype=torch.float16)
    for member, rows_NV in zip(model.members, rows, strict=True):
        loss.streaming(member, ids, rows_RV=rows_NV)
    mine = torch.empty(9_000, 65, dtype=torch.float16)
    targets = ids[1:].numpy()
    nats, _ = ensemble.scores(rows.numpy(), targets, np.array([0.25, 0.75]), mixing, mine)
    theirs, _ = loss.streaming(model, ids)
    torch.testing.assert_close(nats, theirs, atol=2e-3, rtol=1e-3)
    assert float(nats.mean()) == pytest.approx(float(theirs.mean()), abs=1e-4)
    torch.testing.assert_close(
        -mine[range(9_000), ids[1:].long()].double(), nats, atol=0, rtol=1e-3
    )


def test_the_stage_puts_together_what_is_there(tmp_path, monkeypatch, corpus_text):
    """A bigram that knows nothing beside counts that know something; then an ensemble of that."""
    (tmp_path / "data/encoded").mkdir(parents=True)
    encode_text(corpus_text[:30_000], tmp_path / "data/encoded")
    text = (PROJECT / "params.yaml").read_text()
    text = text.replace("first: ngram_lstm,", "first: bigram,")
    text = text.replace("second: lstm,", "second: kneser_ney,")
    twice = "  twice: {first: mixture, second: mlp, mixing: linear, sampling: {}}\n\n"
    text = text.replace("# Dynamic evaluation:", f"{twice}# Dynamic evaluation:")
    (tmp_path / "params.yaml").write_text(text)
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    symbols = "".join(sorted(set(corpus_text[:30_000])))
    torch.manual_seed(0)
    for name in ("bigram", "mlp", "kneser_ney"):
        model = config(name, symbols, 8).build()
        model.prepare(torch.tensor(np.load("data/encoded/train.npy")))
        saved_model.save(tmp_path / "models" / name, model, config(name, symbols, 8))
        # Of the bigram evaluation kept nothing: it reads the holdout again.
        holdout = torch.tensor(np.concatenate([np.load(f"data/encoded/{s}.npy") for s in SPLITS]))
        first = len(np.load("data/encoded/train.npy")) - 1
        rows = torch.empty(0 if name == "bigram" else 3_000, len(symbols), dtype=torch.float16)
        loss.streaming(model.eval(), holdout[first:], rows_RV=rows)
        output = tmp_path / "results" / name
        write_array(output / "log_probabilities.npy", rows.numpy())
        results.save(output / "metrics.json", {}, tmp_path / "models" / name)
    for name in ("mixture", "twice"):
        result = CliRunner().invoke(stage.main, ["--model", name])
        assert result.exit_code == 0, result.output
        found = json.loads((tmp_path / "results" / name / "ensemble.json").read_text())
        alone = [row["validation_nats_per_char"] for row in found["members"]]
        assert found["validation_nats_per_char"][found["mixing"]] <= min(alone) + 1e-6
        scored = json.loads((tmp_path / "results" / name / "metrics.json").read_text())
        assert scored["streaming"]["validation"]["nats_per_char"] == pytest.approx(
            found["validation_nats_per_char"][found["mixing"]], abs=1e-4
        )
        assert (tmp_path / "results" / name / "sample.txt").is_file()
    # What evaluation kept of other weights is refused.
    (tmp_path / "results/bigram/metrics.json").write_text('{"weights_sha256": "other"}')
    result = CliRunner().invoke(stage.main, ["--model", "mixture"])
    assert result.output.startswith("Error: results/bigram/metrics.json is of other weights")
    # The folder has all that it needs.
    shutil.rmtree(tmp_path / "models/mixture")
    loaded, _ = saved_model.load(tmp_path / "models/twice", torch.device("cpu"))
    assert loaded.parameter_count > 0
