"""MLflow, beside the flow: the one way to it, and never a reason to stop training.

A training logs through a `Tracker`, whose MLflow runs in a process of its own: importing it takes
longer than importing torch, and a server that hangs or dies must cost a training nothing. Whatever
goes wrong is said once on standard error, and everything after it is left out.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import logging
import math
import os
import platform
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from charlm.errors import masked
from charlm.files import read_json, sha256

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from charlm.training import Point

DATABASE = "mlflow.db"
"""In the project's root, where no other tracking server is named."""

LOCK = ".mlflow.lock"

FLUSH_S = 5.0
"""Seconds between two batches of metrics, so that a run can be watched without slowing it."""

MAX_METRICS = 1000
"""Metrics that one call of log_batch may hold."""

STALL_S = 2.0
"""Seconds without a sign of life for which the end of a training waits for what is to be sent."""

LOOK_S = 0.5
"""Seconds between two looks whether the process that sends is at work."""

BUSY = 0.1
"""Share of a processor above which the process that sends is taken to be at work."""

WAIT_S = 60.0
"""Seconds after a training's end for which its tracking process goes on sending, even alone."""

# A dead server must not hold training up: MLflow's own defaults retry for about four minutes a
# call. A user's own settings stay.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# What fails is said here, in one line; MLflow would add the whole traceback.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("alembic").setLevel(logging.WARNING)


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a model's weights, by which results find the run that made them."""
    return sha256(folder / "weights.safetensors")


def address(root: Path) -> str:
    """Return the address of the tracking server: of the environment, or of the root's database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / DATABASE}"


def make_database(root: Path) -> None:
    """Make the root's database if it is needed and not there; it takes MLflow some seconds."""
    database = root / DATABASE
    if os.environ.get("MLFLOW_TRACKING_URI") or database.exists():
        return
    from mlflow import MlflowClient

    # Two workers that make it at once would each find half of the other's tables.
    with FileLock(root / LOCK, timeout=60):
        if database.exists():
            return
        # One that is half made, on a disk that is full, could never be used again.
        part = database.with_name(f"{DATABASE}.part")
        part.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{part}")
        part.replace(database)


def connect(experiment: str, root: Path) -> tuple["MlflowClient", str]:
    """Return a client of the server of the environment, or of mlflow.db, and an experiment's id.

    Args:
        experiment: name of the MLflow experiment, made if it does not exist.
        root: the project's root.
    """
    from mlflow import MlflowClient

    make_database(root)
    client = MlflowClient(address(root))
    # Of two workers that make the experiment at once, one would be told that it exists.
    with FileLock(root / LOCK, timeout=60):
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return client, found.experiment_id
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = (root / "mlartifacts").as_uri() if own else None
        # Without it MLflow's pages open on what they have for language model agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client, client.create_experiment(experiment, artifacts, kind)


def runs_that_made(client: "MlflowClient", experiment_id: str, weights: str) -> list[Any]:
    """Return the newest run that made these weights, if there is one.

    Args:
        client: as `connect` returns it.
        experiment_id: of the experiment to look in.
        weights: digest of the model's weights.
    """
    made = f"tags.weights_sha256 = '{weights}'"
    return list(client.search_runs([experiment_id], made, max_results=1))


def running() -> tuple[str, str] | None:
    """Return name and identity of what DVC runs just now: an experiment, or a `dvc repro`."""
    if "DVC_STAGE" not in os.environ:
        return None
    if name := os.environ.get("DVC_EXP_NAME"):
        return name, f"{name} {os.environ.get('DVC_EXP_BASELINE_REV', '')}"
    parents: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        parents = psutil.Process().parents()
    for process in parents:
        with contextlib.suppress(psutil.Error):
            if any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                started = f"{platform.node()} {process.pid} {process.create_time()}"
                return "dvc repro", hashlib.sha256(started.encode()).hexdigest()
    return None


class Client:
    """One connection to the tracking server of the environment, or to mlflow.db in the root.

    Args:
        experiment: name of the MLflow experiment, made if it does not exist.
        root: the project's root.
        pipeline: name and identity of what DVC runs, as `running` returns them; the parent of runs.
        watch: whether runs get what the machine does meanwhile: processor, memory, disk, network,
            GPU.
    """

    def __init__(
        self,
        experiment: str,
        root: Path,
        pipeline: tuple[str, str] | None = None,
        watch: bool = False,
    ) -> None:
        self._client: MlflowClient | None = None
        self._experiment = experiment
        self._root = root
        self._pipeline = pipeline
        self._watch = watch
        self._run_id = ""
        self._parent_id = ""
        self._machine: Any = None
        self._pending: list[tuple[str, float, int, int]] = []
        self._known: set[int] = set()
        self._flushed = time.monotonic()
        self._guard(self._connect)

    def start(
        self,
        name: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
        dataset: dict[str, str],
        goes_on: bool = False,
    ) -> None:
        """Open a run, or again the run of the same training that did not end.

        Its parent is the run of the pipeline or the experiment that DVC runs.

        Args:
            name: of the run.
            parameters: nested mappings are flattened with dots.
            tags: beside those for commit, stage, experiment and versions, which are added here. By
                `training.identity`, if it is there, the run of before is found.
            dataset: name, digest and source of the corpus.
            goes_on: whether the training goes on from a snapshot. A run that nobody closed is then
                its own, because a snapshot has one training at a time.
        """
        self._guard(lambda client: self._start(client, name, parameters, tags, dataset, goes_on))

    def point(self, step: int, values: dict[str, float], stamp: int) -> None:
        """Add metrics of one step, if the run has none of it; they are sent every few seconds.

        Args:
            step: optimiser steps taken.
            values: by name.
            stamp: when they were measured, in milliseconds since 1970.
        """
        if step in self._known:
            return
        self._pending += [(key, value, stamp, step) for key, value in values.items()]
        too_many = len(self._pending) > MAX_METRICS - len(values)
        if too_many or time.monotonic() - self._flushed > FLUSH_S:
            self._guard(self._flush)

    def finish(self, metrics: dict[str, float], tags: dict[str, str], files: list[Path]) -> None:
        """Send what is left, attach files and close the run as finished."""
        self._guard(lambda client: self._finish(client, metrics, tags, files))

    def fail(self, status: str) -> None:
        """Close the run as FAILED or KILLED."""
        if self._run_id:
            self._guard(lambda client: self._fail(client, status))

    @property
    def works(self) -> bool:
        """Whether nothing went wrong so far."""
        return self._client is not None

    def knows(self, weights: str) -> bool:
        """Return whether a run made these weights.

        Args:
            weights: digest of the model's weights.
        """
        found: list[Any] = []
        self._guard(
            lambda client: found.extend(runs_that_made(client, self._experiment_id, weights))
        )
        return bool(found)

    def attach(self, weights: str, metrics: dict[str, float], files: list[Path]) -> None:
        """Add the results of later stages to the newest run that made these weights, once.

        Args:
            weights: digest of the model's weights.
            metrics: the final evaluation.
            files: metrics.json and the sample.
        """
        self._guard(lambda client: self._attach(client, weights, metrics, files))

    def summarise(self, metrics: dict[str, float], files: list[Path]) -> None:
        """Add what is of no single model to the run of the pipeline, if anything ran in it, once.

        Args:
            metrics: by name.
            files: kept under `reports`.
        """
        self._guard(lambda client: self._summarise(client, metrics, files))

    def _guard(self, action: "Callable[[MlflowClient], None]") -> None:
        """Run an action; at the first failure say so and give tracking up."""
        try:
            if self._client is None and action != self._connect:
                return
            action(self._client)  # type: ignore[arg-type]  # _connect alone gets None
        except Exception as error:
            self._client = None
            _warn(str(error) or type(error).__name__)

    def _connect(self, _: Any) -> None:
        self._client, self._experiment_id = connect(self._experiment, self._root)

    def _whole(self, client: "MlflowClient") -> Any:
        """Return the run of the pipeline or the experiment that DVC runs, if it has one."""
        if self._pipeline is None:
            return None
        wanted = f"tags.`pipeline.identity` = '{self._pipeline[1]}'"
        runs = client.search_runs([self._experiment_id], wanted, max_results=1)
        return runs[0] if runs else None

    def _parent(self, client: "MlflowClient") -> str:
        """Return the run's id of what DVC runs, made if there is none; nothing without DVC."""
        if self._pipeline is None:
            return ""
        with FileLock(self._root / LOCK, timeout=60):
            if run := self._whole(client):
                client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
            name, identity = self._pipeline
            tags = {**_surroundings(self._root), "pipeline.identity": identity}
            tags |= {"mlflow.source.name": "dvc", "charlm.kind": "pipeline"}
            del tags["dvc.stage"]
            run = client.create_run(self._experiment_id, tags=tags, run_name=name)
            return str(run.info.run_id)

    def _start(
        self,
        client: "MlflowClient",
        name: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
        dataset: dict[str, str],
        goes_on: bool,
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        tags = {**_surroundings(self._root), **tags}
        if "training.identity" in tags:
            wanted = f"tags.`training.identity` = '{tags['training.identity']}'"
            found = client.search_runs([self._experiment_id], wanted, max_results=1)
            open_ones = ("KILLED", "FAILED", *(["RUNNING"] if goes_on else []))
            if found and found[0].info.status in open_ones:
                self._run_id = found[0].info.run_id
                self._parent_id = found[0].data.tags.get("mlflow.parentRunId", "")
                self._set_status(client, "RUNNING")
                points = client.get_metric_history(self._run_id, "validation_nats")
                self._known = {point.step for point in points}
                self._watch_machine(goes_on=True)
                return
        tags["charlm.kind"] = "model"
        self._parent_id = self._parent(client)
        if self._parent_id:
            tags["mlflow.parentRunId"] = self._parent_id
        run = client.create_run(self._experiment_id, tags=tags, run_name=name)
        self._run_id = run.info.run_id
        flat = [Param(key, str(value)) for key, value in _flatten(parameters)]
        client.log_batch(self._run_id, params=flat)
        source = f'{{"path": "{dataset["source"]}"}}'
        corpus = Dataset(dataset["name"], dataset["digest"], "local", source)
        client.log_inputs(self._run_id, datasets=[DatasetInput(corpus)])
        self._watch_machine(goes_on=False)

    def _watch_machine(self, goes_on: bool) -> None:
        """Log what the machine does every ten seconds, in a thread."""
        if not self._watch:
            return
        from mlflow.system_metrics import system_metrics_monitor

        # What goes wrong with it goes wrong with the run too, which says so once.
        logging.getLogger(system_metrics_monitor.__name__).setLevel(logging.CRITICAL)
        self._machine = system_metrics_monitor.SystemMetricsMonitor(
            self._run_id, resume_logging=goes_on, tracking_uri=address(self._root)
        )
        self._machine.start()

    def _set_status(self, client: "MlflowClient", status: str) -> None:
        """Set the status of the run and of the pipeline's."""
        if status != "RUNNING" and self._machine is not None:
            self._machine.finish()
        for run_id in filter(None, (self._run_id, self._parent_id)):
            if status == "RUNNING":
                client.update_run(run_id, status=status)
            else:
                client.set_terminated(run_id, status)

    def _flush(self, client: "MlflowClient") -> None:
        from mlflow.entities import Metric

        if self._pending:
            client.log_batch(self._run_id, metrics=[Metric(*row) for row in self._pending])
        self._pending.clear()
        self._flushed = time.monotonic()

    def _finish(
        self,
        client: "MlflowClient",
        metrics: dict[str, float],
        tags: dict[str, str],
        files: list[Path],
    ) -> None:
        self._flush(client)
        for file in files:
            client.log_artifact(self._run_id, str(file), "model")
        self._set_status(client, "FINISHED")
        # The digest of the weights, by which a run is found, comes last: such a run is whole.
        _log(client, self._run_id, metrics, tags)
        self._run_id = ""

    def _fail(self, client: "MlflowClient", status: str) -> None:
        self._flush(client)
        self._set_status(client, status)
        self._run_id = ""

    def _attach(
        self, client: "MlflowClient", weights: str, metrics: dict[str, float], files: list[Path]
    ) -> None:
        # A model that DVC restored from its cache was trained in no run of this database.
        for run in self._made(client, weights):
            _attach(client, run, metrics, files, "results")

    def _summarise(
        self, client: "MlflowClient", metrics: dict[str, float], files: list[Path]
    ) -> None:
        # Stages that DVC restored from its cache make no run, so there may be none.
        if run := self._whole(client):
            _attach(client, run, metrics, files, "reports")

    def _made(self, client: "MlflowClient", weights: str) -> list[Any]:
        return runs_that_made(client, self._experiment_id, weights)


class Tracker:
    """One training's run, by a `Client` in a process of its own.

    Calls return at once; what is still to be sent when this process exits is waited for then, while
    it moves. If this process is killed, the run is closed as KILLED.

    Args:
        experiment: name of the MLflow experiment, made if it does not exist.
        root: the project's root.
        on: without it nothing is tracked.
    """

    def __init__(self, experiment: str, root: Path, on: bool = True) -> None:
        self._process: subprocess.Popen[str] | None = None
        if not on:
            return
        source = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C goes to a whole group, but it is the training that says how its run ended.
            process_group=0,
        )
        # Found here: its process may outlive this one, and with it the way to DVC's.
        self._send("connect", experiment, str(root), running())
        atexit.register(self.wait)

    def start(
        self,
        name: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
        dataset: dict[str, str],
        goes_on: bool = False,
    ) -> None:
        """Open a run; arguments as in `Client.start`."""
        self._send("start", name, parameters, tags, dataset, goes_on)

    def point(self, point: "Point") -> None:
        """Add a point of the loss curve."""
        step, values = point_metrics(asdict(point))
        self._send("point", step, values, int(time.time() * 1000))

    def finish(self, metrics: dict[str, float], tags: dict[str, str], files: list[Path]) -> None:
        """Attach files and close the run as finished."""
        self._send("finish", metrics, tags, [str(file.absolute()) for file in files])

    def fail(self, status: str) -> None:
        """Close the run as FAILED or KILLED."""
        self._send("fail", status)

    def attach(self, weights: str, metrics: dict[str, float], files: list[Path]) -> None:
        """Add the results of later stages to a run; arguments as in `Client.attach`."""
        self._send("attach", weights, metrics, [str(file.absolute()) for file in files])

    def summarise(self, metrics: dict[str, float], files: list[Path]) -> None:
        """Add what is of no single model to the pipeline's run; as in `Client.summarise`."""
        self._send("summarise", metrics, [str(file.absolute()) for file in files])

    def wait(self) -> None:
        """Wait until all of it was sent; nothing can be sent afterwards.

        If it neither gets anything done nor computes for `STALL_S`, the process that sends is left
        alone with what it has.
        """
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        # On a machine that is busy, importing MLflow and making its tables take long, and so may a
        # single call: a server that does not answer is told from it by the processor's time.
        limit, quiet = WAIT_S, 0.0
        with self._process.stdout as marks:
            while quiet < limit:
                before = _processor_seconds(self._process.pid)
                if select.select([marks], [], [], LOOK_S)[0]:
                    if not os.read(marks.fileno(), 4096):
                        if self._process.wait():
                            _warn("its process ended")
                        break
                    limit, quiet = STALL_S, 0.0
                elif _processor_seconds(self._process.pid) - before > BUSY * LOOK_S:
                    quiet = 0.0
                else:
                    quiet += LOOK_S
        self._process = None

    def _send(self, method: str, *arguments: Any) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._process = None
            _warn("its process ended")


def _processor_seconds(process_id: int) -> float:
    try:
        times = psutil.Process(process_id).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _serve(lines: IO[str]) -> None:
    """Do what a `Tracker` sends, until it ends."""
    # What was sent is taken at once, so that a slow server never holds the training up.
    calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def receive() -> None:
        for line in lines:
            calls.put(line)
        calls.put("")
        time.sleep(WAIT_S)
        _warn(f"not all was sent in {WAIT_S:.0f} s")
        os._exit(0)

    def mark() -> None:
        # Nobody may be there any more to see it.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), b".")

    threading.Thread(target=receive, daemon=True).start()
    # Imports make a million objects and no garbage: looking for it would take a fifth of the time.
    gc.disable()
    importlib.import_module("mlflow")
    gc.enable()
    _, experiment, root, pipeline = json.loads(calls.get())
    # What fails here fails again below, where it is said.
    with contextlib.suppress(Exception):
        make_database(Path(root))
    mark()
    client = Client(experiment, Path(root), pipeline, watch=True)
    mark()
    while line := calls.get():
        method, *arguments = json.loads(line)
        if method in ("finish", "attach", "summarise"):
            arguments[-1] = [Path(file) for file in arguments[-1]]
        getattr(client, method)(*arguments)
        mark()
    client.fail("KILLED")


def _warn(reason: str) -> None:
    line = masked(" ".join(reason.split()))[:300]
    print(f"warning: MLflow tracking is off from here on: {line}", file=sys.stderr)


def _log(
    client: "MlflowClient", run_id: str, metrics: dict[str, float], tags: dict[str, str]
) -> None:
    from mlflow.entities import Metric, RunTag

    stamp = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, stamp, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def _attach(
    client: "MlflowClient", run: Any, metrics: dict[str, float], files: list[Path], folder: str
) -> None:
    """Add metrics and files to a run that has not just these already."""
    content = b"\0".join(file.read_bytes() for file in files)
    digest = hashlib.sha256(content).hexdigest()
    if run.data.tags.get(f"{folder}_sha256") == digest:
        return
    for file in files:
        client.log_artifact(run.info.run_id, str(file), folder)
    _log(client, run.info.run_id, metrics, {f"{folder}_sha256": digest})


def _flatten(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _surroundings(root: Path) -> dict[str, str]:
    """Return tags that say where a run comes from."""
    tags = {
        "mlflow.source.name": "stages.train",
        "mlflow.source.type": "LOCAL",
        "dvc.stage": os.environ.get("DVC_STAGE", "by hand"),
        "version.python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = name
        tags["dvc.baseline"] = os.environ.get("DVC_EXP_BASELINE_REV", "")
    commit = _git(root, "rev-parse", "HEAD")
    if commit is not None:
        # What the pipeline itself writes does not make a tree dirty.
        changes = _git(
            root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!results", ":!reports"
        )
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(changes)).lower()
    return tags


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def point_metrics(row: dict[str, float]) -> tuple[int, dict[str, float]]:
    """Return a point of a loss curve, a row of curve.csv, as a step and MLflow metrics."""
    values = {key: value for key, value in row.items() if key not in ("step", "characters")}
    for kind in ("train", "validation"):
        values[f"{kind}_bits"] = values[f"{kind}_nats"] / math.log(2)
    return int(row["step"]), values


def evaluation_metrics(path: Path) -> dict[str, float]:
    """Return metrics.json as MLflow metrics: streaming.test.bits_per_char and so on."""
    content = read_json(path)
    kept = {way: content[way] for way in ("windowed", "streaming") if way in content}
    return {key: float(value) for key, value in _flatten(kept)}


def entropy_metrics(path: Path) -> dict[str, float]:
    """Return entropy.json as MLflow metrics: entropy.plug_in.order_3 and so on, in bits."""
    return {
        f"entropy.{name}.order_{row['order']}": found["conditional_bits_per_char"]
        for row in read_json(path)["texts"]["whole"]["orders"]
        for name, found in row["estimates"].items()
    }


def flow_metrics(flow: dict[str, Any]) -> dict[str, float]:
    """Return activations as MLflow metrics: activations.initial.output.mean_abs and so on."""
    return {
        f"activations.{when}.{row['layer']}.{key}": row[key]
        for when, found in flow.items()
        for row in found["layers"]
        for key in ("mean_abs", "sd", "gradient_mean_abs", "gradient_sd")
        if row[key] is not None
    }


if __name__ == "__main__":
    _serve(sys.stdin)
