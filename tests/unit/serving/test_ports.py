"""What MLflow's servers would answer with a traceback, or not at all."""

import json
import os
import socket

import pytest
from click.testing import CliRunner

from charlm import tracking
from charlm.serving import serve, server, ui
from tests.workspace import PROJECT

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def started(monkeypatch):
    """What would be executed; the environment of before is put back."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, command: calls.append(command))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(PROJECT)
    return calls


@pytest.mark.parametrize("command", [ui, serve, server])
def test_a_taken_port_is_one_line(command, taken, started, monkeypatch):
    monkeypatch.setattr(server, "check_database", lambda address: None)
    monkeypatch.setattr(server, "check_store", lambda address: None)
    done = CliRunner().invoke(command.main, ["--port", str(taken)])
    assert done.exit_code == 1
    assert done.output == f"Error: --port: {taken} is in use: choose another\n"
    assert not started


def test_pages_of_a_server_are_on_the_server(started, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.example.org:5000")
    done = CliRunner().invoke(ui.main, [])
    assert done.exit_code == 0
    assert "mlflow.example.org:5000 in a browser" in done.output
    assert "secret" not in done.output
    assert not started


def test_models_are_ranked_and_experiments_compared_at_addresses_of_their_own(
    started, monkeypatch, tmp_path
):
    """MLflow's pages read a view from a tag of the experiment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    done = CliRunner().invoke(ui.main, ["--port", "1025"])
    assert done.exit_code == 0
    client, number = tracking.connect("tinyshakespeare", PROJECT)
    tags = client.get_experiment(number).tags
    for view, kind in (("models", "model"), ("experiments", "pipeline")):
        assert (
            f"http://127.0.0.1:1025/#/experiments/{number}/runs?workflowType=machine_learning"
            f"&viewStateShareKey={view}\n" in done.output
        )
        state = json.loads(tags[f"mlflow.sharedViewState.{view}"])
        assert state["searchFilter"] == f"tags.`charlm.kind` = '{kind}'"
        assert state["orderByKey"]
    assert len(started) == 1


def test_a_database_that_cannot_be_read_is_one_line(started, monkeypatch, tmp_path, capsys):
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"nothing of SQLite" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{damaged}")
    done = CliRunner().invoke(ui.main, ["--port", "1025"])
    assert done.exit_code == 1
    assert "cannot be read, see above" in done.output
    assert "file is not a database" in capsys.readouterr().err + done.output
    assert "Traceback" not in done.output
    assert not started


def test_names_are_allowed_beside_the_numbers(started, monkeypatch):
    from mlflow.server.security_utils import is_allowed_host_header

    monkeypatch.setattr(server, "check_database", lambda address: None)
    monkeypatch.setattr(server, "check_store", lambda address: None)
    arguments = ["--name", "mlflow.example.org", "--name", "runs", "--port", "1025"]
    environment = {"DATABASE": "postgresql://me@localhost/x", "ARTIFACTS": "s3://b"}
    done = CliRunner().invoke(server.main, arguments, env=environment)
    assert done.exit_code == 0, done.output
    (command,) = started
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert {"mlflow.example.org", "mlflow.example.org:1025", "runs", "localhost:*"} <= set(allowed)
    assert is_allowed_host_header(allowed, "192.168.1.5:1025")
    assert is_allowed_host_header(allowed, "mlflow.example.org:1025")
    assert not is_allowed_host_header(allowed, "evil.example.org:1025")
