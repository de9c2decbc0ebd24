"""The command `ui`: MLflow's pages on the runs of this project."""

import json
import os
import sys
from typing import Any

import click

from charlm import tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError, masked
from charlm.files import project_root
from charlm.serving.ports import check_free
from charlm.serving.registry import one_line

HOST = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@one_line_errors
def main(port: int) -> None:
    """Open MLflow's pages until Ctrl-C.

    They show the runs of MLFLOW_TRACKING_URI, or of mlflow.db in the project: models ranked by
    validation, and experiments side by side. Where that is a server, it has the pages itself.

    \b
    Example:
      charlm ui --port 5001
    """
    root = project_root()
    address = tracking.address(root)
    if address.startswith(("http://", "https://")):
        click.echo(f"MLFLOW_TRACKING_URI is a server: open {masked(address)} in a browser")
        return
    check_free(HOST, port)
    settings = params.load()
    if not tracking.Client(settings.corpus.name, root).works:
        raise UserError(f"{masked(address)} cannot be read, see above")
    with one_line():
        client, experiment = tracking.connect(settings.corpus.name, root)
        for view, state in views(settings).items():
            tag = f"mlflow.sharedViewState.{view}"
            client.set_experiment_tag(experiment, tag, json.dumps(state))
    page = f"http://{HOST}:{port}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    click.echo("MLflow (Ctrl-C ends it):")
    for view in views(settings):
        click.echo(f"  {view:<12} {page}&viewStateShareKey={view}")
    os.environ |= {
        # Eight processes for what it has for language model agents.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": address,
        "PYTHONWARNINGS": "ignore",  # of what MLflow uses
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--uvicorn-opts", "--log-level warning"])


def views(settings: params.Params) -> dict[str, dict[str, Any]]:
    """Return what MLflow shows of the runs, by a name: it keeps such views in tags.

    `models` is the ranking; `experiments` has a row for each `dvc repro` and each experiment.
    """
    everything = {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    ranked_by = "metrics.`streaming.validation.bits_per_char`"
    columns = [ranked_by, "metrics.`train_seconds`", "params.`parameters`"]
    models = {
        "searchFilter": "tags.`charlm.kind` = 'model'",
        "orderByKey": ranked_by,
        "orderByAsc": True,
        "selectedColumns": columns,
    }
    experiments = {
        "searchFilter": "tags.`charlm.kind` = 'pipeline'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [f"metrics.`validation_bits.{name}`" for name in settings.ranked],
    }
    return {"models": everything | models, "experiments": everything | experiments}


if __name__ == "__main__":
    main()
