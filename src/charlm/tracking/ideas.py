"""The runs of the ideas in MLflow: an experiment of their own, one parent, a child a seed."""

import time
from pathlib import Path
from typing import Any

import psutil

from charlm.config import params
from charlm.files import project_root, read_json
from charlm.tracking import client as connection
from charlm.tracking.metrics import flatten

PARENT = "charlm ideas"


def add(content: dict[str, Any], families: dict[str, str], folder: Path) -> None:
    """Add every run that MLflow does not have yet; a server that fails is said in one line.

    Args:
        content: of ideas/params.json.
        families: of what was measured, by its name in params.json.
        folder: of the pipeline.
    """
    try:
        _add(content, families, folder)
    except Exception as error:
        connection.warn(str(error) or type(error).__name__)


def _add(content: dict[str, Any], families: dict[str, str], folder: Path) -> None:
    experiment = f"{params.load().corpus.name}-ideas"
    client, experiment_id = connection.connect(experiment, project_root())
    connection.close_abandoned(client, experiment_id)
    known = {
        run.data.tags.get("idea.run")
        for run in client.search_runs([experiment_id], max_results=50_000)
    }
    parents = client.search_runs([experiment_id], "tags.`idea.parent` = 'true'", max_results=1)
    parent = parents[0] if parents else None
    for name in [*content["sides"], *content["ensembles"], *content["dynamic"]]:
        if name not in families:
            continue
        file = folder / "results" / f"{name}.json"
        settings = content["sides"].get(name, {})
        for run in read_json(file)["runs"]:
            identity = f"{name} {run['seed']} {run['validation']:.10f}"
            if identity in known:
                continue
            if parent is None:
                parent = client.create_run(
                    experiment_id, tags={"idea.parent": "true"}, run_name=PARENT
                )
                client.set_terminated(parent.info.run_id)
            tags = {
                connection.OWNER: connection.owner(psutil.Process()),
                "idea.family": families[name],
                "mlflow.parentRunId": parent.info.run_id,
                "charlm.kind": "idea",
            }
            made = client.create_run(
                experiment_id, tags=tags, run_name=f"{name} seed {run['seed']}"
            )
            _fill(client, made.info.run_id, settings, run)
            # By which it is known; a run that was left half made is made again.
            client.set_tag(made.info.run_id, "idea.run", identity)
            client.set_terminated(made.info.run_id)


def _fill(client: Any, run_id: str, settings: dict[str, Any], run: dict[str, Any]) -> None:
    """Log parameters and losses of one run."""
    from mlflow.entities import Metric, Param

    described = {key: settings[key] for key in ("model", "architecture", "training") if settings}
    described |= {"seed": run["seed"], "parameters": run["parameters"]}
    parameters = {key: str(value) for key, value in flatten(described)}
    if run["learning_rate"] is not None:
        parameters["training.learning_rate"] = str(run["learning_rate"])
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{key}_bits_per_char", run[key], now, 0)
        for key in ("validation", "test", "windowed")
        if run[key] is not None
    ]
    if run["seconds"] is not None:
        metrics.append(Metric("train_seconds", run["seconds"], now, 0))
    for characters, _, bits in run["curve"]:
        metrics.append(Metric("validation_bits", bits, now, characters))
    written = [Param(key, value) for key, value in parameters.items()]
    client.log_batch(run_id, metrics=metrics, params=written)
