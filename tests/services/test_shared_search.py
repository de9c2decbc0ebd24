"""Two clones that work at one search, whose trials PostgreSQL holds; one is killed."""

import shutil
import subprocess
import time

import pytest

from tests.workspace import environment, run

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: make services")

SEARCH = ["charlm", "search", "--model", "bigram", "--trials", "6", "--workers", "1"]
SEARCH += ["models.bigram.training.learning_rate=1e-3..1e-1", "--study", "two"]


def trials(database, state):
    """Return how many trials of the study there are in a state."""
    with psycopg.connect(database) as connection:
        query = "SELECT count(*) FROM trials WHERE state = %s"
        try:
            return connection.execute(query, [state]).fetchone()[0]
        except psycopg.errors.UndefinedTable:
            return 0


@pytest.fixture
def database(postgres):
    """A database beside MLflow's."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE searches")
    return postgres.rpartition("/")[0] + "/searches"


def test_a_killed_clone_costs_nothing(project, database, tmp_path):
    """Both begin at once."""
    clones = [tmp_path / name for name in ("one", "two")]
    for folder in clones:
        shutil.copytree(project, folder)
    command = [*SEARCH, "--database", database]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (
        subprocess.Popen(command, cwd=folder, env=environment(), **how) for folder in clones
    )
    try:
        while trials(database, "COMPLETE") < 2:
            assert first.poll() is None, first.communicate()
            time.sleep(0.5)
        first.kill()
        first.communicate()
        run(clones[0], "dvc", "queue", "stop", "--kill", check=False)
        output, errors = second.communicate(timeout=1200)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert second.returncode == 0, errors
    rows = [line.split() for line in output.splitlines() if "learning_rate=" in line]
    rows = [row for row in rows if row[0].replace(".", "").isdigit()]
    assert len(rows) == len({row[1] for row in rows}) == 6, output
    assert trials(database, "RUNNING") == 0
