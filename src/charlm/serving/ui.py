"""The command `ui`: MLflow's pages on the runs of this project."""

import os
import sys

import click

from charlm import tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError, masked
from charlm.files import project_root
from charlm.serving.ports import check_free

HOST = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@one_line_errors
def main(port: int) -> None:
    """Open MLflow's pages until Ctrl-C.

    They show the runs of MLFLOW_TRACKING_URI, or of mlflow.db in the project. Where that is a
    server, it has the pages itself.

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
    name = params.load().corpus.name
    client = tracking.Client(name, root)
    if not client.works:
        raise UserError(f"{masked(address)} cannot be read, see above")
    page = f"http://{HOST}:{port}/#/experiments/{client.experiment_id}"
    click.echo(f"MLflow on {page}?workflowType=machine_learning (Ctrl-C ends it)")
    os.environ |= {
        # Eight processes for what it has for language model agents.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": address,
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--uvicorn-opts", "--log-level warning"])


if __name__ == "__main__":
    main()
