"""Counting on a Dask cluster of two workers, compared with counting here."""

import os
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from charlm.data import encoding
from charlm.entropy import cluster, counts_of_counts
from tests.services.servers import free_port, running
from tests.workspace import PROJECT, encode_text

distributed = pytest.importorskip("distributed", reason="Dask is not installed: make services")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler with two workers, each a process of its own."""
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    folder = tmp_path_factory.mktemp("dask")
    how = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(PROJECT / "src")}}

    def workers():
        with distributed.Client(address, timeout=5) as client:
            return len(client.scheduler_info()["workers"])

    def two():
        assert workers() == 2

    with ExitStack() as stack:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(running(command, workers, **how))
        for last in (False, True):
            command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
            command += ["--nthreads", "1", "--no-dashboard"]
            stack.enter_context(running(command, two if last else workers, **how))
        yield address


@pytest.mark.parametrize("symbols", [65, 5000])
def test_a_cluster_counts_what_we_count(scheduler, symbols, tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    # Some n-grams often, many once; the end of the text matters too.
    ids = random.zipf(1.3, 60_000) % symbols
    splits = encode_text("".join(chr(0x4E00 + each) for each in ids), tmp_path)
    parts = [encoding.load_split(tmp_path, name) for name in splits]
    vocabulary = len(np.unique(ids))
    monkeypatch.setattr(cluster, "PIECE", 7001)  # pieces end in all parts, and across them
    ours = counts_of_counts.streamed(parts, vocabulary, 4)
    theirs = cluster.counted(parts, vocabulary, 4, scheduler)
    for own, other in zip(ours, theirs, strict=True):
        assert own.order == other.order
        for kind in ("ngrams", "contexts"):
            for one, two in zip(getattr(own, kind), getattr(other, kind), strict=True):
                assert np.array_equal(one, two), (own.order, kind)


def test_the_stage_writes_the_same_file(scheduler, project, tmp_path):
    import shutil

    from tests.workspace import run

    folder = tmp_path / "charlm"
    shutil.copytree(project, folder)
    before = (folder / "results/entropy.json").read_bytes()
    run(folder, "python", "-m", "stages.entropy", "--cluster", scheduler)
    assert (folder / "results/entropy.json").read_bytes() == before


def test_a_scheduler_that_does_not_answer_is_one_line(project):
    from tests.workspace import run

    done = run(
        project, "python", "-m", "stages.entropy", "--cluster", "tcp://127.0.0.1:1", check=False
    )
    assert done.returncode == 1
    assert "--cluster: tcp://127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr
