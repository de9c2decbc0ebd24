"""One training's MLflow run, written by a process beside the training.

Importing MLflow takes longer than importing torch, and a server that hangs or dies must cost a
training nothing: a `Tracker` sends each call as a line of JSON to a process that has a `Client`.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import psutil

from charlm.tracking.client import Client, make_database, owner, warn
from charlm.tracking.metrics import point_metrics

if TYPE_CHECKING:
    from charlm.training.trainer import Point

PROGRAMS = {"dvc": "dvc repro", "charlm": "charlm repro", "charlm.repro": "charlm repro"}
"""What runs the graph, by a word of its command line."""

STALL_S = 2.0
"""Seconds without a sign of life for which the end of a training waits for what is to be sent."""

LOOK_S = 0.5
"""Seconds between two looks whether the process that sends is at work."""

BUSY = 0.1
"""Share of a processor above which the process that sends is taken to be at work."""

WAIT_S = 60.0
"""Seconds after a training's end for which its tracking process goes on sending, even alone."""


def running() -> tuple[str, str, str] | None:
    """Return what runs just now, an experiment or the graph: name, identity and process."""
    if "DVC_STAGE" not in os.environ:
        return None
    program, process = _program()
    if name := os.environ.get("DVC_EXP_NAME"):
        return name, f"{name} {os.environ.get('DVC_EXP_BASELINE_REV', '')}", process
    return (program, hashlib.sha256(process.encode()).hexdigest(), process) if program else None


def _program() -> tuple[str, str]:
    """Return name and process of what runs the graph; both empty if nothing does."""
    parents: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        parents = psutil.Process().parents()
    for process in parents:
        with contextlib.suppress(psutil.Error):
            words = [Path(word).name for word in process.cmdline()[:3]]
            if program := next((PROGRAMS[word] for word in words if word in PROGRAMS), None):
                return program, owner(process)
    return "", ""


def _new_process() -> "subprocess.Popen[str]":
    """Return a process that serves a `Tracker`, and first imports MLflow."""
    source = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", __package__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Not this process's own: `make repro | tee log` would wait for whoever holds it.
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        # Ctrl-C goes to a whole group, but it is the training that says how its run ended.
        process_group=0,
    )


def may_fork() -> bool:
    """Return whether this process is a fork that has MLflow, and no thread that a fork loses."""
    return (
        "mlflow" in sys.modules
        and multiprocessing.parent_process() is not None
        and threading.active_count() == 1
    )


class Fork:
    """A fork of this process that serves a `Tracker`: as `_new_process`, without the imports.

    Attributes:
        pid: its number.
        stdin: what it reads.
        stdout: what it writes.
        stderr: what it says.

    Raises:
        OSError: no more processes or files are allowed.
    """

    def __init__(self) -> None:
        (their_in, our_in), (our_out, their_out), (our_err, their_err) = (
            os.pipe() for _ in range(3)
        )
        theirs = their_in, their_out, their_err
        # The training's own way to end must not be begun in the fork.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.pid = os.fork()
            if self.pid == 0:
                self._serve(theirs, before)
            # By both, because either may be first.
            with contextlib.suppress(OSError):
                os.setpgid(self.pid, self.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for end in theirs:
            os.close(end)
        self.stdin: IO[str] = os.fdopen(our_in, "w", encoding="utf-8")
        self.stdout: IO[str] = os.fdopen(our_out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(our_err, encoding="utf-8")

    def _serve(self, ends: tuple[int, int, int], signals: set[Any]) -> NoReturn:
        """Serve, and have nothing of the training: no group, no file, no way to handle signals."""
        try:
            gc.freeze()  # what was inherited must not close files whose numbers are others' by now
            os.setpgid(0, 0)
            for standard, end in enumerate(ends):
                os.dup2(end, standard)
            for file in list(Path("/dev/fd").iterdir()):
                if int(file.name) > 2:
                    with contextlib.suppress(OSError):
                        os.close(int(file.name))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            with open(0, encoding="utf-8") as lines:
                serve(lines)
            os._exit(0)
        finally:
            os._exit(1)

    def wait(self) -> int:
        """Return its exit status when it has ended."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


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
        self._process: Fork | subprocess.Popen[str] | None = None
        if not on:
            return
        try:
            self._process = Fork() if may_fork() else _new_process()
        except OSError as error:  # no more processes are allowed, or no memory
            warn(str(error))
            return
        self._said = threading.Thread(
            target=self._pass_on, args=[self._process.stderr], daemon=True
        )
        self._said.start()
        # Found here: its process may outlive this one, and with it the way to DVC's.
        self._send("connect", experiment, str(root), running())
        atexit.register(self._end)

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
                            warn("its process ended")
                        break
                    limit, quiet = STALL_S, 0.0
                elif _processor_seconds(self._process.pid) - before > BUSY * LOOK_S:
                    quiet = 0.0
                else:
                    quiet += LOOK_S
        self._said.join(1.0)
        self._process = None

    def _end(self) -> None:
        """Wait as the process ends; a second Ctrl-C leaves the process beside it alone."""
        with contextlib.suppress(KeyboardInterrupt):
            self.wait()

    def _pass_on(self, lines: IO[str]) -> None:
        """Print what the process beside this one says."""
        for line in lines:
            sys.stderr.write(line)
            sys.stderr.flush()

    def _send(self, method: str, *arguments: Any) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._process = None
            warn("its process ended")


def _processor_seconds(process_id: int) -> float:
    try:
        times = psutil.Process(process_id).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def serve(lines: IO[str]) -> None:
    """Do what a `Tracker` sends, until it ends."""
    # What was sent is taken at once, so that a slow server never holds the training up.
    calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def receive() -> None:
        for line in lines:
            calls.put(line)
        calls.put("")
        time.sleep(WAIT_S)
        warn(f"not all was sent in {WAIT_S:.0f} s")
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
