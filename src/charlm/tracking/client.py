"""One connection to MLflow: the first failure is reported in one line and switches tracking off."""

import contextlib
import hashlib
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from charlm.errors import masked
from charlm.tracking import artifacts
from charlm.tracking.metrics import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient


DATABASE = "mlflow.db"
"""In the project's root, where no other tracking server is named."""

LOCK = ".mlflow.lock"

OWNER = "charlm.process"
"""Tag of a run: the process that it is of."""

FLUSH_S = 5.0
"""Seconds between two batches of metrics, so that a run can be watched without slowing it."""

LONGEST_REASON = 300
"""Characters of what MLflow says that are shown."""

BITS = "streaming.validation.bits_per_char"
"""The loss that models are ranked by."""

MAX_METRICS = 1000
"""Metrics that one call of log_batch may hold."""

# A dead server must not hold training up: MLflow's own defaults retry for about four minutes a
# call. A user's own settings stay.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# What fails is said here, in one line; MLflow would add the whole traceback.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("alembic").setLevel(logging.WARNING)


def address(root: Path) -> str:
    """Return the address of the tracking server: of the environment, or of the root's database.

    A relative path is relative to the root: a queued experiment's own folder is removed with it.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return f"sqlite:///{root / DATABASE}"
    scheme, _, path = given.partition("sqlite:///")
    if not scheme and path and not Path(path).is_absolute() and path != ":memory:":
        return f"sqlite:///{root / path}"
    if ":" not in given:  # a folder
        return str(root / given)
    return given


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
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        if own:
            artifacts.move_along(root / DATABASE, root)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
                say(f"the experiment {experiment} had been deleted in MLflow: it is restored")
            return client, found.experiment_id
        place = artifacts.location(root) if own else None
        # Without it MLflow's pages open on what they have for language model agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client, client.create_experiment(experiment, place, kind)


def close_abandoned(client: "MlflowClient", experiment_id: str) -> None:
    """Close runs as KILLED whose process on this machine is gone: nobody else would.

    Args:
        client: as `connect` returns it.
        experiment_id: of the experiment to look in.
    """
    running = "attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], running, max_results=1000):
        owner = run.data.tags.get(OWNER, "").split()
        if len(owner) == 3 and owner[0] == _here() and not _alive(*owner[1:]):
            client.set_terminated(run.info.run_id, "KILLED")


def owner(process: psutil.Process) -> str:
    """Return what tells a process from all others: machine, number and moment of its start."""
    return f"{_here()} {process.pid} {process.create_time()}"


def _here() -> str:
    """Return what tells this machine from others: its name, and on Linux its id and processes.

    Machines of a team may have one name, and containers share an id: their processes are numbered
    apart.
    """
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text(encoding="utf-8").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts).replace(" ", "_")


def _alive(process_id: str, started: str) -> bool:
    try:
        began: float = psutil.Process(int(process_id)).create_time()
        return abs(began - float(started)) < 1
    except (psutil.Error, ValueError):
        return False


def runs_that_made(client: "MlflowClient", experiment_id: str, weights: str) -> list[Any]:
    """Return the newest run that made these weights, if there is one.

    Args:
        client: as `connect` returns it.
        experiment_id: of the experiment to look in.
        weights: digest of the model's weights.
    """
    made = f"tags.weights_sha256 = '{weights}'"
    return list(client.search_runs([experiment_id], made, max_results=1))


class Client:
    """One connection to the tracking server of the environment, or to mlflow.db in the root.

    Args:
        experiment: name of the MLflow experiment, made if it does not exist.
        root: the project's root.
        pipeline: name, identity and process of what DVC runs, as `running` returns them; the parent
            of runs.
        watch: whether runs get what the machine does meanwhile: processor, memory, disk, network,
            GPU.
    """

    def __init__(
        self,
        experiment: str,
        root: Path,
        pipeline: tuple[str, str, str] | None = None,
        watch: bool = False,
    ) -> None:
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._root = root
        self._pipeline = pipeline
        self._watch = watch
        self._run_id = ""
        self._parent_id = ""
        self._machine: Any = None
        self._pending: list[tuple[str, float, int, int]] = []
        self._known: set[int] = set()
        self._flushed = time.monotonic()
        try:
            self._client, self._experiment_id = connect(experiment, root)
            close_abandoned(self._client, self._experiment_id)
        except Exception as error:
            self._give_up(error)

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
            goes_on: whether the training goes on from a checkpoint. A run that nobody closed is
                then its own, because a checkpoint has one training at a time.
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
    def experiment_id(self) -> str:
        """The id of the experiment; empty if it could not be had."""
        return self._experiment_id

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
        if self._client is None:
            return
        try:
            action(self._client)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._client = None
        warn(str(error) or type(error).__name__)

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
            name, identity, process = self._pipeline
            tags = {**_surroundings(self._root), "pipeline.identity": identity, OWNER: process}
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

        tags = {**_surroundings(self._root), OWNER: owner(psutil.Process()), **tags}
        if "training.identity" in tags:
            wanted = f"tags.`training.identity` = '{tags['training.identity']}'"
            found = client.search_runs([self._experiment_id], wanted, max_results=1)
            open_ones = ("KILLED", "FAILED", *(["RUNNING"] if goes_on else []))
            if found and found[0].info.status in open_ones:
                self._run_id = found[0].info.run_id
                self._parent_id = found[0].data.tags.get("mlflow.parentRunId", "")
                self._set_status(client, "RUNNING")
                client.set_tag(self._run_id, OWNER, tags[OWNER])
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
        flat = [Param(key, str(value)) for key, value in flatten(parameters)]
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
            elif run_id == self._run_id or status != "FINISHED" or self._is_open(client, run_id):
                client.set_terminated(run_id, status)

    def _is_open(self, client: "MlflowClient", run_id: str) -> bool:
        """Return whether a pipeline's run is open: another training of it may have failed."""
        status: str = client.get_run(run_id).info.status
        return status == "RUNNING"

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
        # MLflow shows the last value of a curve.
        if points := client.get_metric_history(self._run_id, "validation_bits"):
            best = min(points, key=lambda point: float(point.value))
            metrics = metrics | {"best.validation_bits": best.value, "best.step": best.step}
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
            child = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
            children = client.search_runs([self._experiment_id], child, max_results=1000)
            spread = seeds(children)
            client.set_tag(run.info.run_id, "mlflow.note.content", description(children, spread))
            for entry, (mean, sd) in spread.items():
                metrics = metrics | {f"seeds.{entry}.mean": mean, f"seeds.{entry}.sd": sd}
            _attach(client, run, metrics, files, "reports")

    def _made(self, client: "MlflowClient", weights: str) -> list[Any]:
        return runs_that_made(client, self._experiment_id, weights)


def seeds(runs: list[Any]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation over the seeds of each entry that has several.

    Args:
        runs: of models, with their evaluation; its validation loss is taken, in bits per character.
    """
    bits: dict[str, list[float]] = {}
    for run in runs:
        if BITS in run.data.metrics and run.data.params.get("text") == "train":
            bits.setdefault(run.data.params.get("entry", ""), []).append(run.data.metrics[BITS])
    return {
        entry: (statistics.fmean(values), statistics.stdev(values))
        for entry, values in bits.items()
        if len(values) > 1
    }


def description(runs: list[Any], spread: dict[str, tuple[float, float]]) -> str:
    """Return the text that MLflow shows of a pipeline's run: its models, with links to their runs.

    Args:
        runs: of models.
        spread: as `seeds` returns it.
    """
    lines = ["| model | validation, bits per character | seconds |", "|---|---|---|"]
    for run in sorted(runs, key=lambda run: run.data.metrics.get(BITS, math.inf)):
        link = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        bits = run.data.metrics.get(BITS)
        seconds = run.data.metrics.get("train_seconds")
        lines.append(
            f"| [{run.info.run_name}]({link}) | {'-' if bits is None else f'{bits:.4f}'} "
            f"| {'-' if seconds is None else f'{seconds:.1f}'} |"
        )
    if spread:
        lines += ["", "Over seeds: mean and standard deviation.", ""]
        lines += [f"- {entry}: {mean:.4f} ± {sd:.4f}" for entry, (mean, sd) in spread.items()]
    return "\n".join(lines)


def warn(reason: str) -> None:
    """Say on standard error, in one line and without passwords, why tracking is off."""
    line = masked(" ".join(reason.split()))
    line = line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."
    if "out-of-date database schema" in line:
        line = (
            f"its database is of an earlier MLflow; make a copy of {DATABASE}, then run "
            f"`mlflow db upgrade sqlite:///{DATABASE}` in the project's folder"
        )
    if "Invalid Host header" in line or "DNS rebinding" in line:
        line = (
            "the server does not know the name that it is called by: start it with that name "
            "(`make server NAME=mlflow.example.org`, or MLflow's --allowed-hosts)"
        )
    say(f"MLflow tracking is off from here on: {line}")


def say(line: str) -> None:
    """Warn in one line."""
    with contextlib.suppress(OSError):  # a training that has ended hears nothing any more
        print(f"warning: {line}", file=sys.stderr, flush=True)


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
