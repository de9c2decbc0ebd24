"""The real graph again, a small zoo at scale smoke, as its users change it."""

import json
import math
import re
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from charlm import tracking
from tests.workspace import TINY, change, committed, copy_project, metrics, run, stages_run


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, corpus_path) -> Path:
    """Three models and a reproduction, run once and committed, in a folder with a space."""
    folder = tmp_path_factory.mktemp("another project") / "charlm"
    kept = {"scale": "smoke", "repeats": {}, "corpus__sources": [str(corpus_path)]}
    copy_project(folder, ("bigram", "mlp", "residual_lstm"), **kept)
    committed(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_a_reproduction_is_in_no_ranking_but_in_the_table_of_sources(pipeline):
    """Its run in MLflow says so too."""
    content = metrics(pipeline, "mlp_all")
    assert content["trained_on"] == "all"
    assert list(content["windowed"]) == ["seen"]
    assert content["windowed"]["seen"]["characters"] == 1_115_393
    assert "streaming" not in content
    assert "mlp_all" not in (pipeline / "reports/leaderboard.json").read_text()
    found = json.loads((pipeline / "reports/sources.json").read_text())
    rows = {(row["document"], row["figure"]): row for row in found["rows"]}
    assert rows["A", "H_1 / 1, bits per character"]["verdict"] == "reproduced"
    # 200 steps are not 10,000: what was not run is not compared.
    for figure in (
        ("C", "step 9,000, one batch of 1,024"),
        ("D", "step 10,000, one batch of 32 x 8"),
    ):
        assert rows[figure]["verdict"] == "not run at the published budget"
        assert rows[figure]["ours"] is None
    assert found["this_run"]["mlp_all"]["full_pass"]["text"] == "seen"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (logged,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'mlp_all'")
    assert logged.data.tags["dvc.stage"] == "reproduce@mlp_all"
    assert logged.data.metrics["windowed.seen.nats_per_char"] > 0


def test_a_reproduction_follows_its_entry_and_comes_back_from_the_cache(pipeline):
    change(pipeline, models__mlp__smoke__steps=20)
    both = ("train@mlp", "reproduce@mlp_all")
    assert set(stages_run(pipeline, *both)) == set(both)
    change(pipeline, models__mlp__smoke__steps=200)
    assert stages_run(pipeline, *both) == []


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_mlflow_is_brought_in_line_with_the_files(pipeline, tmp_path):
    """Another server gets every run once; the one that has them gets none."""
    assert "4 models, 0 runs added" in run(pipeline, "python", "-m", "charlm.tracking.track").stderr
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    command = ("env", f"MLFLOW_TRACKING_URI={uri}", "python", "-m", "charlm.tracking.track")
    assert "4 runs added: mlp, bigram, residual_lstm, mlp_all" in run(pipeline, *command).stderr
    assert "4 models, 0 runs added" in run(pipeline, *command).stderr

    from mlflow import MlflowClient

    there, here = MlflowClient(uri), MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    weights = tracking.weights_digest(pipeline / "models/mlp")
    found = []
    for client in (there, here):
        experiment = client.get_experiment_by_name("tinyshakespeare")
        made = f"tags.weights_sha256 = '{weights}'"
        (run_found,) = client.search_runs([experiment.experiment_id], made)
        found.append((client, run_found))
    (_, added), (_, logged) = found
    assert added.info.status == "FINISHED"
    clock = {"train_seconds", "characters_per_second"}
    assert added.data.metrics == {k: v for k, v in logged.data.metrics.items() if k not in clock}
    curves = [
        [(m.step, m.value) for m in client.get_metric_history(of.info.run_id, "validation_nats")]
        for client, of in found
    ]
    assert curves[0] == curves[1]
    assert {f.path for f in there.list_artifacts(added.info.run_id)} == {"model", "results"}


def test_a_model_on_top_of_counts_is_trained_scored_ranked_and_drawn_from(pipeline):
    (row,) = (
        row
        for row in json.loads((pipeline / "reports/leaderboard.json").read_text())
        if row["model"] == "residual_lstm"
    )
    # What the counts know of 90 % of the text, at least, which the smallest budget leaves there.
    assert row["streaming"]["holdout"]["nats_per_char"] < 1.55
    assert len((pipeline / "results/residual_lstm/sample.txt").read_text()) > 100
    assert "residual_lstm" in (pipeline / "reports/report.html").read_text()


def test_an_own_corpus_is_a_dependency(pipeline):
    own = pipeline / "own.txt"
    own.write_text("To be, or not to be. " * 300)
    change(pipeline, corpus__path="own.txt")
    assert stages_run(pipeline, "encode") == ["download", "encode"]
    own.write_text("Ay, there's the rub. " * 300)
    assert stages_run(pipeline, "encode") == ["download", "encode"]
    assert (pipeline / "data/raw/corpus.txt").read_text() == own.read_text()
    change(pipeline, corpus__path="data/none")
    assert stages_run(pipeline) == []
    own.unlink()


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_queued_experiments_find_their_corpus_and_share_one_database(pipeline, tmp_path):
    """One corpus lies anywhere and is named in full, the other lies in the project."""
    text = (pipeline / "data/raw/corpus.txt").read_text()
    outside, inside = tmp_path / "outside.txt", pipeline / "inside.txt"
    outside.write_text(text[:20_000])
    inside.write_text(text[20_000:50_000])
    run(pipeline, "git", "add", "inside.txt")
    for name, path in (("outside", str(outside)), ("inside", "inside.txt")):
        overrides = ["~models.mlp", "~reproductions.mlp_all", "~residuals.residual_lstm"]
        overrides += [f"corpus.path={path}", f"corpus.name={name}"]
        flags = [word for override in overrides for word in ("-S", override)]
        run(pipeline, "dvc", "exp", "run", "--queue", "-n", name, *flags)
    run(pipeline, "dvc", "queue", "start", "-j", "2")
    deadline = time.monotonic() + 240
    while re.search("Queued|Running", status := run(pipeline, "dvc", "queue", "status").stdout):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.count("Success") == 2, status

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    for name in ("outside", "inside"):
        experiment = client.get_experiment_by_name(name)
        kind = "tags.`charlm.kind` = 'model'"
        (found,) = client.search_runs(
            [experiment.experiment_id], f"{kind} AND tags.`dvc.stage` = 'train@bigram'"
        )
        assert found.data.tags["dvc.experiment"] == name
        assert found.data.metrics["streaming.test.nats_per_char"] > 0
    shown = json.loads(run(pipeline, "dvc", "exp", "show", "--json").stdout)
    assert {e["name"] for e in shown[1]["experiments"]} == {"outside", "inside"}


UNIGRAM = '''"""Unigram: how often each symbol occurs, whatever came before it."""

import torch
from torch import Tensor, nn

from charlm.models.base import LanguageModel, State
from charlm.config.schema import PositiveRate, Schema


class Architecture(Schema):
    """How large the first weights are."""

    start: PositiveRate


class Model(LanguageModel):
    """One weight a symbol."""

    context_length = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.logits_V = nn.Parameter(torch.randn(vocabulary_size) * architecture.start)

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The same logits everywhere."""
        return self.logits_V.expand(*ids_BT.shape, -1), None
'''


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_a_further_model_takes_one_file_and_one_entry(pipeline):
    """As CONTRIBUTING says: nothing else is touched, nothing else is trained."""
    (pipeline / "src/charlm/models/unigram.py").write_text(UNIGRAM)
    bigram = YAML(typ="safe", pure=True).load(pipeline / "params.yaml")["models"]["bigram"]
    entry = {**bigram, "model": "unigram", "architecture": {"start": 0.1}, "sampling": {}}
    change(pipeline, models__unigram=entry)
    ran = stages_run(pipeline)
    assert ran == ["train@unigram", "evaluate@unigram", "sample@unigram", "sources", "report"]
    rows = json.loads((pipeline / "reports/leaderboard.json").read_text())
    found = next(row for row in rows if row["model"] == "unigram")
    assert found["parameters"] == 65
    assert 3.0 < found["streaming"]["holdout"]["nats_per_char"] < 4.3
    assert "<h3>unigram</h3>" in (pipeline / "reports/report.html").read_text()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (run_found,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'unigram'")
    assert "streaming.holdout.nats_per_char" in run_found.data.metrics


JAPANESE = "春はあけぼの。やうやう白くなりゆく山際、\r\nすこしあかりて、紫だちたる雲\r\n"


def test_any_corpus_works_or_is_refused_in_one_line(pipeline, tmp_path):
    """Japanese with CRLF: the prompts of params.yaml cannot be spelt, and that is no reason."""
    folder = copy_project(tmp_path / "copy", ("gpt",), **TINY)
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    own = folder / "own.txt"
    own.write_bytes((JAPANESE * 150).encode())
    change(folder, corpus__path="own.txt")
    done = run(folder, "dvc", "repro")
    assert "beginning at the first symbol, '\\n'" in done.stderr
    sample = (folder / "results/gpt/sample.txt").read_bytes().decode()
    assert set(
        sample.replace("=== sample 1 of 2 ===", "").replace("=== sample 2 of 2 ===", "")
    ) <= (set(JAPANESE) | {"\n"})
    rows = json.loads((folder / "reports/leaderboard.json").read_text())
    bits = rows[0]["streaming"]["holdout"]
    assert bits["bits_per_char"] < math.log2(len(set(JAPANESE)))
    found = json.loads((folder / "results/gpt/metrics.json").read_text())["streaming"]["holdout"]
    assert found["bits_per_byte"] < 0.7 * found["bits_per_char"]
    table = json.loads((folder / "reports/sources.json").read_text())
    assert "another corpus" in table["verdicts"]
    own.write_text("To be, or not to be, that is the question. " * 7)
    done = run(folder, "dvc", "repro", check=False)
    assert done.returncode != 0
    assert re.search(r"Error: the \w+ split has \d+ characters, but \w+ needs at", done.stderr)
    assert "Traceback" not in done.stderr
