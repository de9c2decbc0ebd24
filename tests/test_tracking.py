import json
import math
import time

import pytest

from charlm import tracking
from charlm.training import Point
from tests.workspace import PROJECT, run

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def track(root, name="lstm", digest="d1"):
    tracker = tracking.Tracker("shakespeare", root)
    tracker.start(
        name,
        {"model": name, "training": {"steps": 3, "clip": None}},
        {"device": "cpu"},
        {"name": "shakespeare", "digest": "abc", "source": "data/encoded"},
    )
    for step in range(3):
        tracker.point(Point(step, step * 10, 4.0 - step, 4.1 - step, 4.5 - step, 1e-3))
    weights = root / "weights.safetensors"
    weights.write_bytes(b"w")
    tracker.finish({"train_seconds": 2.0}, {"weights_sha256": digest}, [weights])
    return tracker


def test_a_run_holds_what_a_reader_looks_for(tmp_path, no_server, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@lstm")
    monkeypatch.setenv("DVC_EXP_NAME", "tired-newt")
    monkeypatch.chdir("/")
    tracker = track(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    for _ in range(2):
        tracker.attach("d1", {"streaming.test.bits_per_char": 2.0}, [tmp_path / "metrics.json"])

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("shakespeare")
    (run_found,) = client.search_runs([experiment.experiment_id])
    assert run_found.info.run_name == "lstm"
    assert run_found.info.status == "FINISHED"
    assert run_found.data.params["training.steps"] == "3"
    assert run_found.data.metrics["train_seconds"] == 2.0
    tags = run_found.data.tags
    assert tags["dvc.stage"] == "train@lstm"
    assert tags["dvc.experiment"] == "tired-newt"
    assert tags["device"] == "cpu"
    (dataset,) = run_found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("shakespeare", "abc")
    run_id = run_found.info.run_id
    curve = client.get_metric_history(run_id, "validation_bits")
    assert [(m.step, m.value) for m in curve] == [
        (step, pytest.approx((4.5 - step) / math.log(2))) for step in range(3)
    ]
    # Attached once, although asked twice.
    assert len(client.get_metric_history(run_id, "streaming.test.bits_per_char")) == 1
    stored = tmp_path / "mlartifacts" / run_id / "artifacts"
    assert (stored / "model" / "weights.safetensors").read_bytes() == b"w"
    assert (stored / "results" / "metrics.json").is_file()


def test_results_of_unknown_weights_are_left_out(tmp_path, no_server):
    track(tmp_path).attach("other", {"x": 1.0}, [])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs(["1"])
    assert "x" not in found.data.metrics


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1", "sqlite:////dev/null/all.db", "nonsense://x"]
)
def test_a_failing_server_is_said_once_and_costs_seconds(tmp_path, monkeypatch, capsys, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    track(tmp_path).attach("d1", {}, [])
    assert time.monotonic() - started < 10
    errors = [line for line in capsys.readouterr().err.splitlines() if "warning: MLflow" in line]
    assert len(errors) == 1


def test_a_server_that_dies_while_training_is_said_once(tmp_path, no_server, capsys):
    tracker = tracking.Tracker("shakespeare", tmp_path)
    tracker.start("a", {}, {}, {"name": "n", "digest": "d", "source": "s"})
    (tmp_path / "mlflow.db").write_bytes(b"not a database any more")
    for step in range(300):
        tracker.point(Point(step, step, 1.0, 1.0, 1.0, 1.0))
    tracker.finish({}, {}, [])
    assert capsys.readouterr().err.count("warning: MLflow tracking is off") == 1


def test_only_one_module_imports_mlflow():
    importing = [
        path.name
        for path in [*PROJECT.glob("src/**/*.py"), *PROJECT.glob("stages/*.py")]
        if "mlflow import" in path.read_text() or "import mlflow" in path.read_text()
    ]
    assert importing == ["tracking.py"]


def test_evaluation_metrics_are_flat(tmp_path):
    leaf = {"nats_per_char": 1.5}
    content = {
        "model": "x",
        "parameters": 3,
        "windowed": {"test": leaf},
        "streaming": {"test": leaf},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert tracking.evaluation_metrics(tmp_path / "metrics.json") == {
        "windowed.test.nats_per_char": 1.5,
        "streaming.test.nats_per_char": 1.5,
    }


def test_a_dirty_tree_is_told_from_what_the_pipeline_writes(tmp_path):
    def git(*arguments):
        run(tmp_path, "git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments)

    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "dvc.lock").write_text("2")
    assert tracking._surroundings(tmp_path)["git.dirty"] == "false"
    (tmp_path / "params.yaml").write_text("2")
    assert tracking._surroundings(tmp_path)["git.dirty"] == "true"
