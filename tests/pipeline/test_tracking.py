import contextlib
import errno
import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import fields

import psutil
import pytest

from charlm import results, tracking
from charlm.repro import fork
from charlm.tracking.client import BITS, OWNER, owner, warn
from charlm.tracking.client import _surroundings as surroundings
from charlm.training.trainer import Point
from tests.workspace import PROJECT, environment, run

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Making MLflow's tables takes seconds, and every test needs a database of its own."""
    folder = tmp_path_factory.mktemp("database")
    mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return folder / "mlflow.db"


@pytest.fixture
def no_server(monkeypatch, tmp_path, empty_database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")


DATASET = {"name": "shakespeare", "digest": "abc", "source": "data/encoded"}


def parameters(name):
    run_of = {"entry": name.split("_")[0], "text": "train"}
    return run_of | {"model": name, "training": {"steps": 3, "clip": None}}


def track(root, name="lstm", digest="d1"):
    tracker = tracking.Tracker("shakespeare", root)
    tracker.start(name, parameters(name), {"device": "cpu"}, DATASET)
    for step in range(3):
        tracker.point(Point(step, step * 10, 4.0 - step, 4.1 - step, 4.5 - step, 1e-3))
    weights = root / "weights.safetensors"
    weights.write_bytes(b"w")
    finish(tracker, {"train_seconds": 2.0}, {"weights_sha256": digest}, [weights])


def track_here(root, name="lstm", digest="d1"):
    """Track without the process beside this one, which imports MLflow for seconds."""
    client = tracking.Client("shakespeare", root, tracking.running())
    client.start(name, parameters(name), {}, DATASET)
    client.finish({"train_seconds": 2.0}, {"weights_sha256": digest}, [])


def finish(tracker, *arguments):
    """End a run and wait for all of it, which a training does only while it moves."""
    process = tracker._process
    tracker.finish(*arguments)
    tracker.wait()
    process.wait(60)


def runs(root):
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("shakespeare")
    return client, client.search_runs([experiment.experiment_id])


def test_a_run_holds_what_a_reader_looks_for(tmp_path, no_server, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@lstm")
    monkeypatch.setenv("DVC_EXP_NAME", "tired-newt")
    monkeypatch.chdir("/")
    track(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    for _ in range(2):
        later = tracking.Client("shakespeare", tmp_path)
        later.attach("d1", {"streaming.test.bits_per_char": 2.0}, [tmp_path / "metrics.json"])

    client, found = runs(tmp_path)
    (run_found,) = [each for each in found if each.info.run_name == "lstm"]
    assert run_found.info.status == "FINISHED"
    assert run_found.data.params["training.steps"] == "3"
    assert run_found.data.metrics["train_seconds"] == 2.0
    tags = run_found.data.tags
    assert tags["dvc.stage"] == "train@lstm"
    assert tags["dvc.experiment"] == "tired-newt"
    assert tags["device"] == "cpu"
    (dataset,) = run_found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("shakespeare", "abc")
    run_id = run_found.info.run_id
    curve = client.get_metric_history(run_id, "validation_bits")
    assert [(m.step, m.value) for m in curve] == [
        (step, pytest.approx((4.5 - step) / math.log(2))) for step in range(3)
    ]
    assert {"train_nats", "batch_nats", "learning_rate"} <= set(run_found.data.metrics)
    assert run_found.data.metrics["best.validation_bits"] == pytest.approx(2.5 / math.log(2))
    assert run_found.data.metrics["best.step"] == 2
    # Attached once, although asked twice.
    assert len(client.get_metric_history(run_id, "streaming.test.bits_per_char")) == 1
    stored = tmp_path / "mlartifacts" / run_id / "artifacts"
    assert (stored / "model" / "weights.safetensors").read_bytes() == b"w"
    assert (stored / "results" / "metrics.json").is_file()


def test_models_of_one_pipeline_are_children_of_its_run(tmp_path, no_server, monkeypatch):
    """Found again by the experiment's name; none by hand, and none where nothing ran."""
    monkeypatch.setenv("DVC_STAGE", "train@lstm")
    monkeypatch.setenv("DVC_EXP_NAME", "tired-newt")
    nothing = tracking.Client("shakespeare", tmp_path, tracking.running())
    (tmp_path / "report.html").write_text("all")
    nothing.summarise({"best": 1.0}, [tmp_path / "report.html"])
    assert runs(tmp_path)[1] == []
    for name in ("lstm", "gpt"):
        track_here(tmp_path, name, digest=name)
    track_here(tmp_path, "gpt_2", digest="gpt_2")
    files = [tmp_path / "report.html"]
    for name, bits in (("lstm", 2.0), ("gpt", 3.0), ("gpt_2", 3.5)):
        nothing.attach(name, {BITS: bits}, files)
    for _ in range(2):
        nothing.summarise({"best": 1.0}, files)
    client, found = runs(tmp_path)
    kinds = {each.info.run_name: each for each in found}
    parent = kinds.pop("tired-newt")
    assert parent.data.tags["charlm.kind"] == "pipeline"
    assert parent.info.status == "FINISHED"
    assert len(client.get_metric_history(parent.info.run_id, "best")) == 1
    assert sorted(kinds) == ["gpt", "gpt_2", "lstm"]
    shown = parent.data.tags["mlflow.note.content"].splitlines()
    assert [line.split("]")[0] for line in shown[2:5]] == ["| [lstm", "| [gpt", "| [gpt_2"]
    assert shown[-1] == "- gpt: 3.2500 ± 0.3536"
    assert parent.data.metrics["seeds.gpt.mean"] == 3.25
    assert f"/runs/{kinds['lstm'].info.run_id}) | 2.0000 | 2.0 |" in shown[2]
    for each in kinds.values():
        assert each.data.tags["mlflow.parentRunId"] == parent.info.run_id
    monkeypatch.delenv("DVC_EXP_NAME")
    monkeypatch.delenv("DVC_STAGE")
    track_here(tmp_path, "rnn", digest="rnn")
    by_hand = next(each for each in runs(tmp_path)[1] if each.info.run_name == "rnn")
    assert "mlflow.parentRunId" not in by_hand.data.tags


def test_a_pipeline_of_which_a_training_failed_has_failed(tmp_path, no_server, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@lstm")
    monkeypatch.setenv("DVC_EXP_NAME", "tired-newt")
    clients = [tracking.Client("shakespeare", tmp_path, tracking.running()) for _ in range(2)]
    for name, client in zip(("lstm", "gpt"), clients, strict=True):
        client.start(name, {}, {}, {"name": "text", "digest": "d", "source": "s"})
    clients[0].fail("FAILED")
    clients[1].finish({}, {}, [])
    states = {each.info.run_name: each.info.status for each in runs(tmp_path)[1]}
    assert states == {"tired-newt": "FAILED", "lstm": "FAILED", "gpt": "FINISHED"}


def test_a_deleted_experiment_is_restored(tmp_path, no_server, capsys):
    track_here(tmp_path)
    client, _ = runs(tmp_path)
    client.delete_experiment(client.get_experiment_by_name("shakespeare").experiment_id)
    track_here(tmp_path, "gpt", "d2")
    assert "the experiment shakespeare had been deleted in MLflow: it is restored" in (
        capsys.readouterr().err
    )
    assert {each.info.run_name for each in runs(tmp_path)[1]} >= {"gpt"}


def test_what_nobody_runs_any_more_is_closed_at_the_next_opportunity(tmp_path, no_server):
    """A run and its parent whose processes were killed; what is at work stays, also elsewhere."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    dead = owner(psutil.Process(gone.pid))
    gone.wait()
    client, here = tracking.connect("shakespeare", tmp_path)
    tags = {
        "killed": dead,
        "mine": owner(psutil.Process()),
        "elsewhere": f"otherhost {dead.split(maxsplit=1)[1]}",
        "reused": f"{dead.split()[0]} {os.getpid()} 1.5",
        "unknown": "",
    }
    made = {
        name: client.create_run(here, tags={OWNER: tag}, run_name=name)
        for name, tag in tags.items()
    }
    tracking.Client("shakespeare", tmp_path)
    statuses = {name: client.get_run(run.info.run_id).info.status for name, run in made.items()}
    assert statuses == {
        "killed": "KILLED",
        "mine": "RUNNING",
        "elsewhere": "RUNNING",
        "reused": "KILLED",
        "unknown": "RUNNING",
    }


def test_every_run_says_whose_it_is(tmp_path, no_server, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@lstm")
    me = ("dvc repro", "some identity", owner(psutil.Process()))
    client = tracking.Client("shakespeare", tmp_path, me)
    client.start("a", {}, {}, DATASET)
    _, found = runs(tmp_path)
    assert {each.data.tags[OWNER] for each in found} == {owner(psutil.Process())}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///runs/all.db", "sqlite:///{root}/runs/all.db"),
        ("sqlite:////srv/all.db", "sqlite:////srv/all.db"),
        ("mlruns", "{root}/mlruns"),
        ("http://mlflow.example.org:5000", "http://mlflow.example.org:5000"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
    ],
)
def test_a_relative_address_is_relative_to_the_project(given, expected, monkeypatch, tmp_path):
    """A queued experiment runs in a folder that is removed after it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking.address(tmp_path) == expected.format(root=tmp_path)


def test_a_name_that_the_server_does_not_know_names_the_cure(capsys):
    warn("API request failed with 403: Invalid Host header - possible DNS rebinding attack")
    assert "make server NAME=mlflow.example.org" in capsys.readouterr().err


def test_a_slow_tracking_process_needs_no_training_to_find_its_parent(
    tmp_path, no_server, monkeypatch
):
    """Left alone with what it has, it descends from DVC no more."""
    monkeypatch.setattr(
        "charlm.tracking.tracker.running", lambda: ("dvc repro", "of a process that ended", "")
    )
    track(tmp_path)
    _, found = runs(tmp_path)
    kinds = {each.info.run_name: each for each in found}
    assert kinds["lstm"].data.tags["mlflow.parentRunId"] == kinds["dvc repro"].info.run_id


def test_a_long_run_shows_what_the_machine_does(tmp_path, no_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    client = tracking.Client("shakespeare", tmp_path, watch=True)
    client.start("a", {}, {}, DATASET)
    time.sleep(1)
    client.finish({}, {}, [])
    _, (found,) = runs(tmp_path)
    assert found.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_results_of_unknown_weights_are_left_out(tmp_path, no_server):
    track_here(tmp_path)
    tracking.Client("shakespeare", tmp_path).attach("other", {"x": 1.0}, [])
    _, (found,) = runs(tmp_path)
    assert "x" not in found.data.metrics


@pytest.mark.parametrize(
    ("uri", "begin"),
    [
        ("http://127.0.0.1:1", track_here),
        ("sqlite:////dev/null/all.db", track),
        ("nonsense://x", track_here),
    ],
)
def test_a_failing_server_is_said_once(tmp_path, monkeypatch, capfd, uri, begin):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    begin(tmp_path)
    errors = [line for line in capfd.readouterr().err.splitlines() if "warning: MLflow" in line]
    assert len(errors) == 1
    tracking.Client("shakespeare", tmp_path).attach("d1", {}, [])
    assert capfd.readouterr().err.count("warning: MLflow") == 1


def test_a_server_that_dies_while_training_is_said_once(tmp_path, no_server, capsys):
    client = tracking.Client("shakespeare", tmp_path)
    client.start("a", {}, {}, DATASET)
    (tmp_path / "mlflow.db").write_bytes(b"not a database any more")
    for step in range(300):
        client.point(step, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, 0)
    client.finish({}, {}, [])
    assert capsys.readouterr().err.count("warning: MLflow tracking is off") == 1


def test_a_server_that_never_answers_holds_no_training_up(tmp_path, monkeypatch, capfd):
    """It accepts, and that is all: points return at once, more of them than a pipe holds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        tracker = tracking.Tracker("shakespeare", tmp_path)
        tracker.start("a", {}, {}, DATASET)
        time.sleep(1)  # its process has begun to read
        started = time.monotonic()
        for step in range(5000):
            tracker.point(Point(step, step, 1.0, 1.0, 1.0, 1.0))
        assert time.monotonic() - started < 5
        finish(tracker, {}, {}, [])
    assert capfd.readouterr().err.count("warning: MLflow tracking is off") == 1


def test_a_second_ctrl_c_while_it_waits_is_no_traceback(monkeypatch, tmp_path):
    tracker = tracking.Tracker("text", tmp_path, on=False)
    waited = []

    def wait():
        waited.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker, "wait", wait)
    tracker._end()
    assert waited


def test_what_cannot_be_sent_in_time_is_given_up(tmp_path):
    """Also what a process that goes on alone waits for: here a database that stays locked."""
    tracking.Client("shakespeare", tmp_path)
    code = "import sys; from charlm.tracking import tracker; tracker.WAIT_S = 0.1; "
    code += "tracker.serve(sys.stdin)"
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        calls = json.dumps(["connect", "shakespeare", str(tmp_path)]) + "\n"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, input=calls, capture_output=True, text=True)
    assert done.stderr == "warning: MLflow tracking is off from here on: not all was sent in 0 s\n"


def test_a_database_that_is_half_made_is_made_anew(tmp_path, no_server, capfd):
    """What a full disk or a kill leaves could otherwise never be used again."""
    (tmp_path / "mlflow.db").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", half_made)
        assert not tracking.Client("shakespeare", tmp_path).works
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db.part"]
    assert "disk I/O error" in capfd.readouterr().err
    assert tracking.Client("shakespeare", tmp_path).works


def half_made(uri):
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("CREATE TABLE spans (trace_id INTEGER)")
    raise OSError("disk I/O error")


def test_its_process_can_be_killed(tmp_path, no_server, capsys):
    tracker = tracking.Tracker("shakespeare", tmp_path)
    tracker._process.kill()
    tracker._process.wait()
    for step in range(3):
        tracker.point(Point(step, step, 1.0, 1.0, 1.0, 1.0))
    tracker.finish({}, {}, [])
    tracker.wait()
    assert capsys.readouterr().err.count("warning: MLflow tracking is off") == 1


FORKED = """
import charlm.repro.libraries
from charlm.tracking import tracker
tracker.may_fork = lambda: True
"""
"""What a stage of `charlm repro` is: it has MLflow, and may fork."""

forking = pytest.mark.skipif(not fork.FORKS, reason="stages are no forks here")


@pytest.mark.parametrize(
    ("end", "status", "first"),
    [
        ("os.killpg(0, signal.SIGKILL)", "KILLED", ""),
        pytest.param("os.killpg(0, signal.SIGKILL)", "KILLED", FORKED, marks=forking),
        pytest.param("os.killpg(0, signal.SIGINT)", "FAILED", FORKED, marks=forking),
    ],
)
def test_a_run_of_a_dead_training_is_closed(tmp_path, no_server, end, status, first):
    """Also after SIGKILL: the pipe's end says so. Ctrl-C goes to the group and loses nothing."""
    code = f"""
{first}
import os, signal
from dataclasses import make_dataclass
from pathlib import Path
from charlm import tracking
Point = make_dataclass("Point", {[field.name for field in fields(Point)]!r})
# A shell's background jobs ignore it, and so would this one.
signal.signal(signal.SIGINT, signal.default_int_handler)
tracker = tracking.Tracker("shakespeare", Path({str(tmp_path)!r}))
print(tracker._process.pid, flush=True)
tracker.start("a", {{}}, {{}}, {DATASET!r})
tracker.point(Point(7, 1, 1.0, 1.0, 1.0, 1.0))
try:
    {end}
    signal.pause()
except KeyboardInterrupt:
    tracker.fail("FAILED")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    number = int(done.stdout)
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(number, 0)
            time.sleep(0.2)
    client, found = runs(tmp_path)
    assert [each.info.status for each in found] == [status]
    history = client.get_metric_history(found[0].info.run_id, "train_nats")
    assert [metric.step for metric in history] == [7]


def test_only_two_packages_import_mlflow():
    importing = {
        path.parent.name
        for path in [*PROJECT.glob("src/**/*.py"), *PROJECT.glob("stages/*.py")]
        if re.search(r"^\s*(from|import) mlflow", path.read_text(), re.MULTILINE)
    }
    assert importing == {"tracking", "serving"}


def test_evaluation_metrics_are_flat(tmp_path):
    leaf = {"nats_per_char": 1.5}
    content = {
        "model": "x",
        "parameters": 3,
        "windowed": {"test": leaf},
        "streaming": {"test": leaf},
    }
    (tmp_path / "weights.safetensors").write_bytes(b"w")
    results.save(tmp_path / "metrics.json", content, tmp_path)
    assert tracking.evaluation_metrics(tmp_path / "metrics.json", tmp_path) == {
        "windowed.test.nats_per_char": 1.5,
        "streaming.test.nats_per_char": 1.5,
    }


def test_a_dirty_tree_is_told_from_what_the_pipeline_writes(tmp_path):
    def git(*arguments):
        run(tmp_path, "git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments)

    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "dvc.lock").write_text("2")
    assert surroundings(tmp_path)["git.dirty"] == "false"
    (tmp_path / "params.yaml").write_text("2")
    assert surroundings(tmp_path)["git.dirty"] == "true"


@pytest.mark.parametrize("first", ["", pytest.param(FORKED, marks=forking)])
def test_what_is_left_sending_holds_nothing_of_the_callers(tmp_path, first):
    """`make repro 2>&1 | tee log` ends with the training, even where a server never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        code = (
            f"{first}\n"
            "from charlm.tracking import Tracker; from pathlib import Path; import os, time;"
            f"tracker = Tracker('shakespeare', Path({str(tmp_path)!r}));"
            "tracker.start('lstm', {}, {}, {'name': 'a', 'digest': 'b', 'source': 'c'});"
            "print('done', tracker._process.pid, flush=True); os._exit(0)"
        )
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=30,  # a run returns when nobody holds its output any more
        )
    assert done.stdout.startswith("done ")
    psutil.Process(int(done.stdout.split()[1])).kill()


@pytest.mark.parametrize("first", ["", pytest.param(FORKED, marks=forking)])
def test_a_new_database_is_made_in_silence(tmp_path, first):
    """What MLflow reads as it is imported is set before: it would say what it does."""
    code = f"{first}\nfrom charlm.tracking import Tracker\nfrom pathlib import Path\n"
    code += f"tracker = Tracker('shakespeare', Path({str(tmp_path)!r}))\n"
    code += f"tracker.start('a', {{}}, {{}}, {DATASET!r})\ntracker.finish({{}}, {{}}, [])\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {run.info.run_name for run in runs(tmp_path)[1]} == {"a"}


@forking
def test_a_fork_that_is_killed_costs_a_training_nothing(tmp_path, no_server):
    """It has no file of the training's."""
    code = f"""
{FORKED}
import os, signal, sys
from pathlib import Path
from charlm import tracking
held = open("/dev/null")
tracker = tracking.Tracker("shakespeare", Path({str(tmp_path)!r}))
tracker.start("a", {{}}, {{}}, {DATASET!r})
process = tracker._process
assert isinstance(process, tracking.tracker.Fork)
assert os.getpgid(process.pid) == process.pid
os.read(process.stdout.fileno(), 1)
files = {{file.name: os.readlink(file) for file in os.scandir(f"/proc/{{process.pid}}/fd")}}
assert all(files[standard].startswith("pipe:") for standard in "012"), files
assert "/dev/null" not in files.values(), files
os.kill(process.pid, signal.SIGKILL)
tracker.finish({{}}, {{}}, [])
tracker.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: MLflow tracking is off") == 1


def test_a_database_of_an_earlier_mlflow_is_one_whole_line(capfd):
    warn(
        "Detected out-of-date database schema (found version 1, but expected 2). Take a backup of "
        "your database, then run 'mlflow db upgrade <database_uri>' to migrate" + " your" * 100
    )
    line = capfd.readouterr().err
    assert "mlflow db upgrade sqlite:///mlflow.db" in line
    assert "<database_uri>" not in line
    assert line.count("\n") == 1


def test_a_tracker_that_cannot_be_started_stops_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*words, **settings):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    tracker = tracking.Tracker("shakespeare", tmp_path)
    tracker.start("lstm", {}, {}, {})
    tracker.finish({}, {}, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow tracking is off from here on")
    assert "Resource temporarily unavailable" in line
