"""The real graph again, a small zoo at scale smoke, as its users change it."""

import json
import math
import re
import time
from pathlib import Path

import pytest

from charlm import tracking
from tests.workspace import (
    TINY,
    change,
    committed,
    copy_project,
    invoke,
    metrics,
    run,
    stages_run,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, corpus_path) -> Path:
    """One entry, and a run of it on all of the text, run once and committed."""
    folder = tmp_path_factory.mktemp("another project") / "charlm"
    kept = {"scale": "smoke", "corpus__sources": [str(corpus_path)], "entropy__orders": [1]}
    copy_project(folder, ("mlp",), **kept)
    committed(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_a_run_on_all_of_the_text_is_in_no_ranking_but_beside_published_figures(pipeline):
    """Its run in MLflow says so too."""
    content = metrics(pipeline, "mlp_all")
    assert content["text"] == "all"
    assert list(content["windowed"]) == ["seen"]
    assert content["windowed"]["seen"]["characters"] == 1_115_393
    assert "streaming" not in content
    assert "mlp_all" not in (pipeline / "reports/leaderboard.json").read_text()
    found = json.loads((pipeline / "reports/published.json").read_text())
    rows = {(row["document"], row["figure"]): row for row in found["rows"]}
    assert rows["A", "H_1 / 1, bits per character"]["verdict"] == "reproduced"
    # 200 steps are not 10,000: what was not run is not compared.
    for figure in (
        ("C", "step 9,000, one batch of 1,024"),
        ("D", "step 10,000, one batch of 32 x 8"),
    ):
        assert rows[figure]["verdict"] == "not run at the published training"
        assert rows[figure]["ours"] is None
    assert found["this_run"]["mlp_all"]["full_pass"]["text"] == "seen"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (logged,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'mlp_all'")
    assert logged.data.tags["dvc.stage"] == "train@mlp_all"
    assert logged.data.metrics["windowed.seen.nats_per_char"] > 0


def test_all_runs_of_an_entry_follow_it_and_come_back_from_the_cache(pipeline):
    change(pipeline, models__mlp__smoke__steps=20)
    both = ["train@mlp", "train@mlp_all"]
    assert stages_run(pipeline, *both, program="charlm") == both
    change(pipeline, models__mlp__smoke__steps=200)
    assert stages_run(pipeline, *both) == []


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_mlflow_is_brought_in_line_with_the_files(pipeline, tmp_path, monkeypatch):
    """Another server gets every run once; the one that has them gets none."""
    track, uri = "charlm.tracking.track", f"sqlite:///{tmp_path / 'other.db'}"
    assert "2 models, 0 runs added" in invoke(pipeline, track).stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "2 runs added: mlp, mlp_all" in invoke(pipeline, track).stderr
    assert "2 models, 0 runs added" in invoke(pipeline, track).stderr

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


@pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture` runs it")
@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_queued_experiments_find_their_corpus_and_share_one_database(pipeline, tmp_path):
    """One corpus lies anywhere and is named in full, the other lies in the project."""
    text = (pipeline / "data/raw/corpus.txt").read_text()
    outside, inside = tmp_path / "outside.txt", pipeline / "inside.txt"
    outside.write_text(text[:20_000])
    inside.write_text(text[20_000:50_000])
    run(pipeline, "git", "add", "inside.txt")
    for name, path in (("outside", str(outside)), ("inside", "inside.txt")):
        overrides = ["~runs.mlp_all"]
        overrides += [f"corpus.path={path}", f"corpus.name={name}"]
        flags = [word for override in overrides for word in ("-S", override)]
        run(pipeline, "dvc", "exp", "run", "--queue", "-n", name, *flags, "evaluate@mlp")
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
            [experiment.experiment_id], f"{kind} AND tags.`dvc.stage` = 'train@mlp'"
        )
        assert found.data.tags["dvc.experiment"] == name
        assert found.info.status == "FINISHED"
    shown = json.loads(run(pipeline, "dvc", "exp", "show", "--json").stdout)
    assert {e["name"] for e in shown[1]["experiments"]} == {"outside", "inside"}


COUNTED = '''"""Unigram by counting, each symbol once more than it occurs."""

from typing import ClassVar

import torch
from torch import Tensor

from charlm.config.schema import Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """It has no sizes."""

    by_steps: ClassVar[bool] = False


class Model(LanguageModel):
    """One count per symbol."""

    context_length = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.register_buffer("counts_V", torch.zeros(vocabulary_size, dtype=torch.int64))

    def recount(self, ids_N: Tensor) -> None:
        """Count every symbol."""
        self.counts_V = torch.bincount(ids_N.long(), minlength=len(self.counts_V))

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The same logits everywhere."""
        logits_V = (self.counts_V + 1.0).log()
        return logits_V.expand(*ids_BT.shape, -1), None
'''

ON_COUNTS = '''"""Bigram on top of unigram counts: a table that corrects them."""

import torch
from torch import Tensor, nn

from charlm.config.schema import PositiveRate, Schema
from charlm.models.base import LanguageModel, State


class Architecture(Schema):
    """How large the first weights are."""

    start: PositiveRate


class Model(LanguageModel):
    """Logits of the counts, and a correction for each symbol before."""

    context_length = 1
    features = 1

    def __init__(self, vocabulary_size: int, block: int, architecture: Architecture) -> None:
        super().__init__()
        self.register_buffer("counts_V", torch.zeros(vocabulary_size, dtype=torch.int64))
        self.correction = nn.Embedding(vocabulary_size, vocabulary_size)
        nn.init.normal_(self.correction.weight, std=architecture.start)

    def recount(self, ids_N: Tensor) -> None:
        """Count every symbol."""
        self.counts_V = torch.bincount(ids_N.long(), minlength=len(self.counts_V))

    def prepare(self, ids_N: Tensor, advance=lambda characters: None) -> Tensor:
        """The same features at every character."""
        self.recount(ids_N)
        logits_V = (self.counts_V + 1.0).log().half()
        return logits_V.expand(len(ids_N) - 1, 1, -1)

    def forward(self, ids_BT: Tensor, state: State = None, features_BTKV: Tensor | None = None):
        """Correct the counts."""
        logits = (self.counts_V + 1.0).log() if features_BTKV is None else features_BTKV[:, :, 0]
        return self.correction(ids_BT) + logits, None
'''


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_a_further_model_of_any_kind_takes_one_file_one_entry_and_one_line(pipeline):
    """As CONTRIBUTING says: nothing else is touched, nothing else is trained."""
    common = {"sampling": {}, "quick": {}, "full": {}, "smoke": {}}
    steps = {key: {"steps": 200, "validate_every": 100} for key in ("smoke", "quick", "full")}
    kinds = {
        "counted": (COUNTED, {}, {"block": 8}, {}),
        "on_counts": (ON_COUNTS, {"start": 0.1}, {"block": 8, "learning_rate": 0.01}, steps),
    }
    for name, (code, architecture, training, scales) in kinds.items():
        (pipeline / f"src/charlm/models/{name}.py").write_text(code)
        entry = {"model": name, "architecture": architecture, "training": training}
        line = {"entry": name, "model": name, "text": "train", "seed": 1}
        change(pipeline, **{f"models__{name}": {**entry, **common, **scales}})
        change(pipeline, **{f"runs__{name}": line})
    each = {f"{stage}@{name}" for stage in ("train", "evaluate", "sample") for name in kinds}
    assert stages_run(pipeline, program="charlm") == sorted({*each, "report"})
    rows = json.loads((pipeline / "reports/leaderboard.json").read_text())
    nats = {row["model"]: row["streaming"]["holdout"]["nats_per_char"] for row in rows}
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert [sizes[name] for name in kinds] == [65, 65 + 65 * 65]
    # The counts are the best unigram, and the table corrects it.
    assert nats["on_counts"] < nats["counted"] == pytest.approx(3.3, abs=0.2)
    assert "<h3>on_counts</h3>" in (pipeline / "reports/report.html").read_text()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    for name in kinds:
        found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        assert "streaming.holdout.nats_per_char" in found[0].data.metrics


JAPANESE = "春はあけぼの。やうやう白くなりゆく山際、\r\nすこしあかりて、紫だちたる雲\r\n"


def test_any_corpus_works_or_is_refused_in_one_line(pipeline, tmp_path):
    """Japanese with CRLF: its own commonest line stands in for the prompts of params.yaml."""
    folder = copy_project(tmp_path / "copy", ("gpt",), **TINY)
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    own = folder / "own.txt"
    own.write_bytes((JAPANESE * 150).encode())
    change(folder, corpus__path="own.txt")
    run(folder, "charlm", "repro")
    sample = (folder / "results/gpt/sample.txt").read_bytes().decode()
    assert sample.startswith(f"=== sample 1 of 2 ===\n{JAPANESE[:5]}")
    assert set(
        sample.replace("=== sample 1 of 2 ===", "").replace("=== sample 2 of 2 ===", "")
    ) <= (set(JAPANESE) | {"\n"})
    rows = json.loads((folder / "reports/leaderboard.json").read_text())
    bits = rows[0]["streaming"]["holdout"]
    assert bits["bits_per_char"] < math.log2(len(set(JAPANESE)))
    found = json.loads((folder / "results/gpt/metrics.json").read_text())["streaming"]["holdout"]
    assert found["bits_per_byte"] < 0.7 * found["bits_per_char"]
    # What is Shakespeare's own is not there.
    assert json.loads((folder / "reports/published.json").read_text()) == {}
    own.write_text("To be, or not to be, that is the question. " * 7)
    done = run(folder, "charlm", "repro", check=False)
    assert done.returncode != 0
    assert re.search(r"Error: the \w+ split has \d+ characters, but \w+ needs at", done.stderr)
    assert "Traceback" not in done.stderr
