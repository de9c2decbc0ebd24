"""What keeps a team's server from starting; tests/services has the real one."""

import sys

import pytest
from click.testing import CliRunner

from charlm.serving import server

DATABASE = "postgresql://me:secret@127.0.0.1:1/runs"


@pytest.mark.parametrize(
    ("variables", "missing", "said"),
    [
        ({}, (), "DATABASE must begin with postgresql://"),
        ({"DATABASE": "sqlite:///mlflow.db"}, (), "DATABASE must begin with postgresql://"),
        ({"DATABASE": DATABASE.replace(":1/", ":one/")}, (), "DATABASE: invalid literal for int()"),
        ({"DATABASE": DATABASE}, ("psycopg",), "DATABASE needs psycopg: `make extras` installs it"),
    ],
)
def test_a_database_that_cannot_be_is_one_line(monkeypatch, variables, missing, said):
    monkeypatch.delenv("DATABASE", raising=False)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(server.main, env=variables)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {said}")
    assert done.output.count("\n") == 1
    assert "secret" not in done.output


@pytest.mark.parametrize("address", ["", "charlm", "s3://", "gs://charlm"])
def test_a_store_must_be_a_bucket(address):
    with pytest.raises(server.UserError, match="ARTIFACTS must be s3://BUCKET"):
        server.check_store(address)


def test_a_store_needs_boto3(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(server.UserError, match="ARTIFACTS needs boto3"):
        server.check_store("s3://charlm")


def test_addresses_and_keys_reach_mlflow_through_the_environment(monkeypatch):
    """Lists of processes show arguments to everybody."""
    called = []
    monkeypatch.setattr(server, "check_database", lambda address: None)
    monkeypatch.setattr(server, "check_store", lambda address: None)
    monkeypatch.setattr(server.os, "execv", lambda program, words: called.append(words))
    monkeypatch.setattr(server.os, "environ", {})
    done = CliRunner().invoke(
        server.main, ["--database", DATABASE, "--artifacts", "s3://charlm", "--port", "5050"]
    )
    assert done.exit_code == 0
    assert "postgresql://me:***@127.0.0.1:1/runs, s3://charlm" in done.output
    assert "secret" not in done.output
    (words,) = called
    assert "secret" not in " ".join(words)
    assert words[words.index("--port") + 1] == "5050"
    assert server.os.environ["MLFLOW_BACKEND_STORE_URI"] == DATABASE
    assert server.os.environ["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://charlm"
