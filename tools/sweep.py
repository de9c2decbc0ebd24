"""24 small experiments by four workers over one MLflow database: `python -m tools.sweep`.

A grid of learning rates and seeds, queued by DVC's own choice sweep in a copy of the project. Every
experiment must succeed, and MLflow must show each exactly once, finished, with its whole curve and
its evaluation.
"""

import tempfile
import time
from pathlib import Path

import click
import dvc.api
from mlflow import MlflowClient

from charlm.cli import script
from tests.workspace import PROJECT, committed, copy_project, run

GRID: dict[str, list[float]] = {
    "++models.bigram.training.learning_rate": [0.003, 0.01, 0.03, 0.1],
    "runs.bigram.seed": [1, 2, 3, 4, 5, 6],
}
WORKERS = 4
POINTS = 3
"""Points of the loss curve of `bigram` at scale smoke."""


def sweep(folder: Path, workers: int) -> float:
    """Queue the grid, run it and return the seconds it took."""
    sets = [f"{key}={','.join(map(str, values))}" for key, values in GRID.items()]
    run(folder, "dvc", "exp", "run", "--queue", *(word for one in sets for word in ("-S", one)))
    started = time.monotonic()
    run(folder, "dvc", "queue", "start", "-j", str(workers))
    while True:
        status = run(folder, "dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(5)
    if "Failed" in status:
        raise AssertionError(status)
    return time.monotonic() - started


def check(folder: Path) -> int:
    """Return how many experiments there were, after comparing them with MLflow's runs.

    Raises:
        AssertionError: one is missing, there twice, or not whole.
    """
    names = {row["Experiment"] for row in dvc.api.exp_show(str(folder)) if row["Experiment"]}
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    assert experiment is not None
    stage = "tags.`dvc.stage` = 'train@bigram'"
    found = client.search_runs([experiment.experiment_id], stage, max_results=1000)
    runs = {
        each.data.tags["dvc.experiment"]: each
        for each in found
        if "dvc.experiment" in each.data.tags
    }
    assert len(found) == len(names) + 1, (
        f"{len(found)} runs of {len(names)} experiments and one run"
    )
    assert set(runs) == names, set(runs) ^ names
    asked = set()
    for name, each in runs.items():
        assert each.info.status == "FINISHED", (name, each.info.status)
        history = client.get_metric_history(each.info.run_id, "validation_nats")
        assert len(history) == POINTS, (name, len(history))
        assert "streaming.holdout.nats_per_char" in each.data.metrics, name
        asked.add((each.data.params["training.learning_rate"], each.data.params["seed"]))
    assert len(asked) == len(names)
    return len(names)


@script(__doc__)
@click.argument("workers", default=WORKERS)
def main(workers: int) -> None:
    """Sweep in a scratch copy and say what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "charlm"
        source = str(PROJECT / "data/raw/corpus.txt")
        copy_project(folder, ("bigram",), scale="smoke", corpus__sources=[source])
        committed(folder)
        seconds = sweep(folder, workers)
        count = check(folder)
        expected = 1
        for values in GRID.values():
            expected *= len(values)
        assert count == expected, count
        print(f"{count} experiments by {workers} workers in {seconds:.0f} s: every run once, whole")


if __name__ == "__main__":
    main()
