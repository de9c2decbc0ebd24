import json
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from charlm import models, saved_model
from charlm.evaluation import ensemble, loss
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


def test_log_probabilities_are_those_that_streaming_scores(corpus_ids):
    torch.manual_seed(0)
    model = models.build("lstm", 65, 8, SMOKE.run("lstm").architecture).eval()
    ids = corpus_ids["validation"][:20_001]
    found = loss.log_probabilities(model, ids)
    nats, _ = loss.streaming(model, ids)
    targets = ids[1:].long()
    assert found.exp().sum(-1) == pytest.approx(torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(-found[range(20_000), targets], nats, atol=1e-5, rtol=1e-5)


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
    # The folder has all that it needs.
    shutil.rmtree(tmp_path / "models/mixture")
    loaded, _ = saved_model.load(tmp_path / "models/twice", torch.device("cpu"))
    assert loaded.parameter_count > 0
