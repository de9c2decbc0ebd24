"""PostgreSQL, an S3-compatible store, MLflow's pages and a browser: real ones, on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.services.servers import chromium, fetch, free_port, mlflow_pages, running
from tests.workspace import PROJECT, committed, copy_project


@pytest.fixture(scope="session", autouse=True)
def _asked_for(request) -> None:
    if not request.config.getoption("--services"):
        pytest.skip("needs servers and a browser: make services")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty database of a new PostgreSQL, with a password."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: make services")
    # Debian keeps them off the path, a folder a version.
    places = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), os.environ["PATH"]]
    initdb, server = (
        shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "postgres")
    )
    if not initdb or not server:
        pytest.skip("PostgreSQL is not installed: Debian's package is postgresql")
    # It refuses to run as root.
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        who = {"user": "postgres", "group": "postgres", "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="charlm-postgres-"))
    try:
        (folder / "password").write_text("secret")
        if who:
            shutil.chown(folder, "postgres", "postgres")
        command = [initdb, "-D", "data", "-U", "charlm", "-A", "scram-sha-256"]
        command += ["--pwfile", "password", "--no-sync", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **who)
        port = free_port()
        address = f"postgresql://charlm:secret@127.0.0.1:{port}/postgres"
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        command = [server, "-D", "data", "-p", str(port)]
        command += [word for setting in settings for word in ("-c", setting)]
        how = {"cwd": folder, "stderr": subprocess.DEVNULL, **who}
        with running(command, lambda: psycopg.connect(address).close(), signal.SIGINT, **how):
            yield address
    finally:
        shutil.rmtree(folder)


class Store(NamedTuple):
    """An S3-compatible server with one empty bucket."""

    endpoint: str
    bucket: str
    variables: dict[str, str]
    client: Any


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    pytest.importorskip("moto", reason="moto is not installed: make services")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: make services")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "a secret"}
    keys |= {"AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running(command, lambda: fetch(f"{endpoint}/moto-api/"), **how):
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="me",
            aws_secret_access_key="a secret",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="charlm")
        yield Store(endpoint, "charlm", keys, client)
        client.close()


@pytest.fixture(scope="session")
def project(tmp_path_factory, corpus_path) -> Path:
    """One model, trained and committed. To be copied, never changed."""
    folder = tmp_path_factory.mktemp("project") / "charlm"
    changes = {"corpus__sources": [str(corpus_path)], "entropy__orders": [1, 2]}
    copy_project(folder, ("bigram",), scale="smoke", **changes)
    committed(folder)
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> Iterator[str]:
    """`mlflow ui` as `make ui` starts it, on a copy of the project's own runs."""
    database = tmp_path_factory.mktemp("pages") / "mlflow.db"
    if not (PROJECT / "mlflow.db").is_file():
        pytest.skip("there is no mlflow.db: make repro")
    with mlflow_pages(database) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: make services")
    with chromium() as found:
        if found is None:
            pytest.skip("Chromium is not installed: Debian's package is chromium")
        yield found
