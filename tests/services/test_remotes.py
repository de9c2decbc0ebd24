"""Results restored from a colleague's remote, without training: a folder, and an S3 server."""

import shutil
import subprocess
import sys

import pytest

from tests.services.servers import fetch, free_port, running
from tests.workspace import run

RESTORED = ("data", "models", "results", "reports")
UP_TO_DATE = "Data and pipelines are up to date.\n"


@pytest.fixture(params=["folder", "s3"])
def team(request, project, tmp_path):
    """A colleague's project with a git remote and a DVC remote, and how to say commands there.

    The DVC remote is in each one's own configuration: what DVC takes to be the remote of an
    experiment is what the experiment's commit says, which knows nothing of a remote added later.
    """
    mine = tmp_path / "mine"
    shutil.copytree(project, mine)
    git = tmp_path / "team.git"
    run(tmp_path, "git", "init", "-q", "--bare", str(git))
    run(mine, "git", "remote", "add", "team", str(git))
    run(mine, "git", "push", "-q", "team", "HEAD")
    run(tmp_path, "git", "-C", str(git), "symbolic-ref", "HEAD", branch(mine))
    if request.param == "folder":
        return mine, git, lambda folder: in_folder(folder, tmp_path / "storage")
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed: make services")
    store = request.getfixturevalue("store")
    return mine, git, lambda folder: in_store(folder, store, tmp_path.name)


def branch(folder):
    return run(folder, "git", "symbolic-ref", "HEAD").stdout.strip()


def in_folder(folder, storage):
    """Name a folder as a project's remote; return how commands are said there."""
    run(folder, "dvc", "remote", "add", "--local", "-d", "storage", str(storage))
    return lambda *command: run(folder, *command)


def in_store(folder, store, prefix):
    """Name an S3 server as a project's remote; return how commands are said there."""
    url = f"s3://{store.bucket}/{prefix}"
    run(folder, "dvc", "remote", "add", "--local", "-d", "storage", url)
    run(folder, "dvc", "remote", "modify", "--local", "storage", "endpointurl", store.endpoint)
    keys = [f"{name}={value}" for name, value in store.variables.items()]
    return lambda *command: run(folder, "env", *keys, *command)


def content(folder):
    """Return every file of what the pipeline makes, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in RESTORED
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


def test_all_results_are_restored_without_training(team, tmp_path):
    mine, git, at = team
    pushed = at(mine)("dvc", "push").stdout
    assert "files pushed" in pushed
    theirs = tmp_path / "theirs"
    run(tmp_path, "git", "clone", "-q", str(git), str(theirs))
    assert not (theirs / "models/bigram").exists()
    there = at(theirs)
    there("dvc", "pull")
    assert there("dvc", "status").stdout == UP_TO_DATE
    assert there("dvc", "repro").stdout.endswith(UP_TO_DATE)
    assert content(theirs) == content(mine)
    assert len(content(theirs)) > 15
    # What was trained here would have left a run.
    assert not (theirs / "mlflow.db").exists()


def test_a_static_host_gives_all_results(project, tmp_path):
    """`make pull` from a folder that a web server shows, in a clone that has nothing."""
    mine, theirs, public = (tmp_path / name for name in ("mine", "theirs", "public"))
    shutil.copytree(project, mine)
    in_folder(mine, public)("dvc", "push")
    run(tmp_path, "git", "clone", "-q", str(mine), str(theirs))
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    how = {"cwd": public, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running(command, lambda: fetch(address), **how):
        run(theirs, "charlm", "pull", address)
    assert run(theirs, "dvc", "status").stdout == UP_TO_DATE
    assert content(theirs) == content(mine)
    assert run(theirs, "charlm", "sample", "--model", "bigram", "--length", "5").stdout
    # What is not there is one line, and nothing that was there is lost.
    refused = run(theirs, "charlm", "pull", address, check=False)
    assert (refused.returncode, refused.stderr) == (1, f"Error: {address} does not answer\n")
    assert content(theirs) == content(mine)


def test_an_experiment_is_restored_whole(team, tmp_path):
    """Made before there was a remote, and never in anybody's workspace when it is pushed."""
    mine, git, at = team
    steps = "models.bigram.smoke.steps"
    run(mine, "dvc", "exp", "run", "-n", "shorter", "-S", f"{steps}=120")
    made = content(mine)
    run(mine, "git", "checkout", "-q", ".")
    run(mine, "dvc", "checkout")
    assert content(mine) != made
    here = at(mine)
    here("dvc", "push")
    assert "files uploaded" in here("dvc", "exp", "push", "team", "shorter").stdout
    theirs = tmp_path / "theirs"
    run(tmp_path, "git", "clone", "-q", str(git), str(theirs))
    there = at(theirs)
    there("dvc", "exp", "pull", "origin", "shorter")
    there("dvc", "exp", "apply", "shorter")
    assert there("dvc", "status").stdout == UP_TO_DATE
    assert content(theirs) == made
    assert not (theirs / "mlflow.db").exists()
