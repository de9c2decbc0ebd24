"""A project is a folder that moves."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from charlm import tracking
from charlm.tracking import artifacts
from charlm.tracking.client import connect


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a b" / "project"
    folder.mkdir(parents=True)
    return folder


def log(folder, name):
    """Log a run with a file, and return its id."""
    client, experiment = connect("shakespeare", folder)
    run = client.create_run(experiment, run_name=name)
    (folder / f"{name}.txt").write_text(name)
    client.log_artifact(run.info.run_id, str(folder / f"{name}.txt"))
    return run.info.run_id


def read(folder, run_id, name):
    client, _ = connect("shakespeare", folder)
    assert client.get_run(run_id).info.artifact_uri.startswith(folder.as_uri())
    return Path(client.download_artifacts(run_id, f"{name}.txt")).read_text()


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_files_of_a_project_that_moved_are_found_and_new_ones_lie_beside_them(project):
    first = log(project, "first")
    moved = project.parent.parent / "moved"
    shutil.move(project, moved)
    second = log(moved, "second")
    assert not project.exists()
    assert read(moved, first, "first") == "first"
    assert read(moved, second, "second") == "second"
    # A copy has files of its own, and the original keeps its.
    copied = moved.parent / "copied"
    shutil.copytree(moved, copied)
    before = sorted(moved.rglob("*"))
    third = log(copied, "third")
    assert sorted(moved.rglob("*")) == before
    assert read(copied, third, "third") == "third"
    assert read(moved, first, "first") == "first"
    assert tracking.address(copied).endswith("copied/mlflow.db")


def test_addresses_that_are_not_of_the_project_stay(tmp_path):
    database = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE experiments (artifact_location VARCHAR(256))")
        connection.execute("CREATE TABLE runs (artifact_uri VARCHAR(200), n INTEGER)")
        places = [None, "s3://bucket/mlartifacts", "file:///old/mlartifacts", "/plain"]
        connection.executemany("INSERT INTO experiments VALUES (?)", [(p,) for p in places])
        uris = ["file:///old/mlartifacts/1/a", "file:///old/mlartifacts-other/1", None]
        connection.executemany("INSERT INTO runs VALUES (?, 1)", [(uri,) for uri in uris])
    artifacts.move_along(database, tmp_path)
    new = artifacts.location(tmp_path)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = [row for (row,) in connection.execute("SELECT artifact_location FROM experiments")]
        assert rows == [None, "s3://bucket/mlartifacts", new, "/plain"]
        rows = [row for (row,) in connection.execute("SELECT artifact_uri FROM runs")]
        assert rows == [f"{new}/1/a", "file:///old/mlartifacts-other/1", None]


def test_a_project_below_a_folder_of_that_name_keeps_its_addresses(tmp_path):
    root = tmp_path / artifacts.FOLDER / "project"
    root.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE experiments (artifact_location VARCHAR(256))")
        connection.execute("INSERT INTO experiments VALUES (?)", (artifacts.location(root),))
    artifacts.move_along(root / "mlflow.db", root)
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as connection:
        (row,) = connection.execute("SELECT artifact_location FROM experiments")
    assert row == (artifacts.location(root),)
