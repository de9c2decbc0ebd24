"""One MLflow server for a team: runs in PostgreSQL, files in an S3-compatible store, over HTTP.

MLflow retries a wrong password for a minute and then shows a traceback: here both stores are asked
once, before it starts.
"""

import importlib
import os
import sys
from typing import Any

import click
import sqlalchemy

from charlm.cli import one_line_errors
from charlm.errors import UserError
from charlm.serving.ports import check_free

WAIT_S = 5
"""Seconds that a database or a store may take to answer."""


@click.command()
@click.option("--database", envvar="DATABASE", help="postgresql://USER:PASSWORD@HOST/NAME")
@click.option("--artifacts", envvar="ARTIFACTS", help="s3://BUCKET or s3://BUCKET/FOLDER")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option(
    "--name", "names", multiple=True, help="A name that it is called by, beside its numbers."
)
@one_line_errors
def main(
    database: str | None, artifacts: str | None, host: str, port: int, names: tuple[str, ...]
) -> None:
    """Serve MLflow's pages and the runs of a team until Ctrl-C.

    Addresses are read from DATABASE and ARTIFACTS, so that no list of processes shows a password.
    The store's keys are boto3's own: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and
    MLFLOW_S3_ENDPOINT_URL if it is not Amazon's. Who trains sets MLFLOW_TRACKING_URI, no key.
    MLflow answers to localhost and to numbers of private networks; any other name it refuses,
    unless --name allows it.

    \b
    Example:
      DATABASE=postgresql://me:secret@localhost/mlflow make server
    """
    check_database(database or "")
    check_store(artifacts or "")
    check_free(host, port)
    os.environ |= {
        "MLFLOW_BACKEND_STORE_URI": database or "",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts or "",
        # Eight processes for what it has for language model agents.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    shown = sqlalchemy.make_url(database or "").render_as_string(hide_password=True)
    click.echo(f"MLflow on http://{host}:{port} (Ctrl-C ends it): {shown}, {artifacts}", err=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    if names:
        from mlflow.server.security_utils import get_default_allowed_hosts

        # MLflow takes a list in place of its own, which is to stay allowed.
        allowed = [*names, *(f"{name}:{port}" for name in names), *get_default_allowed_hosts()]
        command += ["--allowed-hosts", ",".join(allowed)]
    os.execv(sys.executable, [*command, "--uvicorn-opts", "--log-level warning"])


def check_database(address: str) -> None:
    """Connect once.

    Raises:
        UserError: the address is none of PostgreSQL, its driver is missing, or it does not answer.
    """
    if not address.startswith("postgresql"):
        raise UserError("DATABASE must begin with postgresql:// (see --help)")
    settings = {"connect_timeout": WAIT_S}
    try:
        engine = sqlalchemy.create_engine(address, connect_args=settings)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
    except ImportError as error:
        raise UserError(
            f"DATABASE needs {error.name or error}: `make extras` installs it"
        ) from None
    # ValueError: a port that is no number.
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        raise UserError(f"DATABASE: {one_line(getattr(error, 'orig', error))}") from None
    if {"studies", "trials"} <= tables:
        # Both keep the version of their tables under one name.
        raise UserError("DATABASE: `charlm search` has its trials there: make another database")


def check_store(address: str) -> None:
    """Ask for the bucket once.

    Raises:
        UserError: the address is none of S3, boto3 is missing, or the bucket cannot be had.
    """
    scheme, _, path = address.partition("://")
    bucket = path.split("/")[0]
    if scheme != "s3" or not bucket:
        raise UserError("ARTIFACTS must be s3://BUCKET or s3://BUCKET/FOLDER")
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    try:
        boto3: Any = importlib.import_module("boto3")
        botocore: Any = importlib.import_module("botocore.config")
    except ImportError:
        raise UserError("ARTIFACTS needs boto3: `make extras` installs it") from None
    once = botocore.Config(connect_timeout=WAIT_S, read_timeout=WAIT_S, retries={"max_attempts": 0})
    try:
        boto3.client("s3", endpoint_url=endpoint, config=once).head_bucket(Bucket=bucket)
    # boto3 has errors of its own and lets ValueError through for an endpoint that is no address.
    except Exception as error:
        where = endpoint or "Amazon's S3 (MLFLOW_S3_ENDPOINT_URL is not set)"
        raise UserError(f"ARTIFACTS: {address} at {where}: {one_line(error)}") from None


def one_line(error: object) -> str:
    """Return what an error says, without its line ends."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
