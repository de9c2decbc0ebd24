"""The command `serve`: a model over HTTP, by MLflow."""

import os
import sys

import click

from charlm.cli import one_line_errors
from charlm.serving.ports import check_free
from charlm.serving.registry import register

HOST = "127.0.0.1"


@click.command()
@click.option("--model", "name", help="Serve this model, not the best one.")
@click.option("--port", type=click.IntRange(1, 65535), default=5001, show_default=True)
@one_line_errors
def main(name: str | None, port: int) -> None:
    """Register the models with MLflow and serve one until Ctrl-C.

    \b
    Example:
      charlm serve --model lstm
    """
    check_free(HOST, port)
    address = register(name)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", address]
    command += ["--env-manager", "local", "--host", HOST, "--port", str(port)]
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
