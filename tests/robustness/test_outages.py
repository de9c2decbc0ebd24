"""MLflow fails in every way that we know, under a real training: same weights, no stall."""

import contextlib
import http.server
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from charlm import tracking
from tests.workspace import run
from tools.torture import contents, remove, trainable, trained

mlflow = pytest.importorskip("mlflow")
pytestmark = [
    pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture` runs it"),
    pytest.mark.filterwarnings("ignore"),  # MLflow's own dependencies warn
]
STALL_S = 5
TIMED = """
import atexit, runpy, sys, time
from charlm.tracking import Tracker
spent = 0.0
def timed(method):
    def call(*arguments, **named):
        global spent
        started = time.monotonic()
        try:
            return method(*arguments, **named)
        finally:
            spent += time.monotonic() - started
    return call
for name in ("__init__", "start", "point", "finish", "wait"):
    setattr(Tracker, name, timed(getattr(Tracker, name)))
sys.argv = ["stages.train", "--model", "bigram"]
try:
    runpy.run_module("stages.train", run_name="__main__")
finally:
    atexit._run_exitfuncs()
    print(spent)
"""
"""A training that says how many seconds it spent on tracking."""


@contextlib.contextmanager
def server(status, answered):
    """Yield the address of a server that answers so many calls and then is gone."""
    experiment = {"experiment_id": "1", "name": "tinyshakespeare", "artifact_location": "file:///x"}
    info = {"run_id": "r", "experiment_id": "1", "status": "RUNNING", "artifact_uri": "file:///x"}
    known = {"get-by-name": {"experiment": experiment}, "create": {"run": {"info": info}}}
    calls = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            nonlocal calls
            calls += 1
            if calls > answered:
                running.socket.close()
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = self.path.split("?")[0].rsplit("/", 1)[1]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(known.get(name, {})).encode())

        do_GET = do_POST = answer

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
    assert calls >= min(answered, 1)


@contextlib.contextmanager
def silent():
    """Yield the address of a server that accepts, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as accepting:
        yield f"http://127.0.0.1:{accepting.getsockname()[1]}"


@contextlib.contextmanager
def locked(database):
    """Hold a database as another process would."""
    with contextlib.closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


OUTAGES = {
    "dead at the start": lambda _: contextlib.nullcontext("http://127.0.0.1:1"),
    "dies while the run is opened": lambda _: server(200, 4),
    "dies in the middle of the curve": lambda _: server(200, 6),
    "never answers": lambda _: silent(),
    "answers 500": lambda _: server(500, 10**9),
    "database locked": locked,
    "no database yet, disk full": lambda database: contextlib.nullcontext(database.unlink()),
    "disk full": lambda _: contextlib.nullcontext(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus_path):
    """A trained and evaluated bigram, with the database that tracked it."""
    short = {"models__bigram__smoke__steps": 20, "models__bigram__smoke__validate_every": 10}
    made = trainable(tmp_path_factory.mktemp("outages"), ["bigram"], corpus_path, **short)
    for stage in ("train", "evaluate", "sample --output results/bigram/sample.txt"):
        run(made, "python", "-m", *f"stages.{stage} --model bigram".split())
    return made


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """What MLflow holds if nothing fails."""
    done = run(folder, "charlm", "track")
    assert done.stderr == "1 models, 0 runs added\n"
    return held(folder, tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database without a run."""
    root = tmp_path_factory.mktemp("empty")
    assert tracking.Client("another", root).works
    return root / "mlflow.db"


def held(folder, scratch):
    """Return the metrics, the curve and the files of the only run that is known to be whole."""
    # MLflow keeps a connection to a file that it has opened, whatever lies in its place later.
    database = shutil.copy(folder / "mlflow.db", scratch / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (found,) = client.search_runs([experiment.experiment_id], "tags.weights_sha256 != ''")
    assert found.info.status == "FINISHED"
    run_id = found.info.run_id
    curve = {
        key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
        for key in ("train_nats", "batch_nats", "validation_nats", "validation_bits")
    }
    files = [
        file.path for part in ("model", "results") for file in client.list_artifacts(run_id, part)
    ]
    # How long it took is in no file.
    live = ("train_seconds", "characters_per_second")
    metrics = {key: value for key, value in found.data.metrics.items() if key not in live}
    return metrics, curve, sorted(files)


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_costs_one_line_and_is_made_good_later(folder, expected, empty, outage, tmp_path):
    _, outs = trained("bigram")
    whole = contents(folder, outs)
    remove(folder, outs)
    database = folder / "mlflow.db"
    shutil.copy(empty, database)
    # Room for all that a training writes, but not for MLflow's database of a megabyte.
    limit = (200_000,) * 2 if "full" in outage else resource.getrlimit(resource.RLIMIT_FSIZE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    said = tmp_path / "said"
    with OUTAGES[outage](database) as address, said.open("w") as errors:
        with subprocess.Popen(
            [sys.executable, "-c", TIMED],
            cwd=folder,
            env=environment | ({"MLFLOW_TRACKING_URI": address} if address else {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        ) as process:
            spent = float(process.stdout.readline())
            assert process.wait() == 0
        deadline = time.monotonic() + 90
        while "warning" not in said.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert spent < STALL_S
    assert contents(folder, outs) == whole
    lines = said.read_text().splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["bigram", "warning"], lines
    done = run(folder, "charlm", "track")
    assert done.stderr == "1 models, 1 runs added: bigram\n"
    assert held(folder, tmp_path) == expected
