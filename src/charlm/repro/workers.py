"""The scheduler's side of the workers: orders go out, and what a stage printed comes back."""

import contextlib
import os
import re
import signal
import tempfile
import time
from multiprocessing import connection
from typing import IO, Any

from charlm.errors import UserError
from charlm.repro import fork, worker

NOISE = (
    "Running stage",
    "> ",
    "Updating lock file",
    "Generating lock file",
    "Use `dvc push`",
    "To track the changes",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "WARNING: 'data/none' is empty",
    "WARNING: 'models/",  # a side of ideas whose models are not kept
)
"""Beginnings of lines that DVC prints for every stage, and that are left out."""

INTERRUPTED = re.compile(
    r"^(?:Exception ignored in .*\n)?Traceback \(most recent call last\):\n(?:[ \t].*\n)*"
    r"KeyboardInterrupt(?:: )?\n",
    re.MULTILINE,
)
"""What Python prints where Ctrl-C meets it before the stage's command has begun, or at its end."""


class Workers:
    """Processes that reproduce stages, one each at a time.

    Args:
        server: that they are forked from.
    """

    def __init__(self, server: fork.Server) -> None:
        self._context = server.context
        self._all: list[_Worker] = []

    def give(self, name: str) -> None:
        """Let a worker that is free reproduce a stage; a new one if there is none."""
        free = next((one for one in self._all if one.stage is None), None)
        if free is None:
            free = _Worker(self._context)
            self._all.append(free)
        free.begin(name)

    def wait(self, seconds: float) -> "list[Outcome]":
        """Return what ended meanwhile; wait for so many seconds at most."""
        busy = {one.orders: one for one in self._all if one.stage is not None}
        ready = connection.wait(list(busy), seconds)
        return [busy[orders].end() for orders in ready]

    def interrupt(self) -> None:
        """Tell the stages that are running to end."""
        for one in self._all:
            if one.stage is not None:
                one.signal(signal.SIGINT)

    def close(self) -> None:
        """End the workers; what they still run is waited for."""
        for one in self._all:
            one.orders.close()
        for one in self._all:
            one.process.join()
            one.output.close()


class Outcome:
    """How a stage ended.

    Attributes:
        name: of the stage.
        status: exit status of `dvc repro`; None if its worker was killed.
        seconds: that it took.
        lines: what it printed.
    """

    def __init__(self, name: str, status: int | None, seconds: float, text: str) -> None:
        self.name, self.status, self.seconds = name, status, seconds
        lines = INTERRUPTED.sub("", text).splitlines()
        self.lines = [line for line in lines if line and not line.startswith(NOISE)]


class _Worker:
    """A process, the stage that it reproduces and what it prints."""

    def __init__(self, context: Any) -> None:
        self.output: IO[str] = tempfile.NamedTemporaryFile(  # noqa: SIM115
            "r", encoding="utf-8", errors="replace", prefix="charlm-"
        )
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=worker.work, args=(theirs, self.output.name))
        try:
            with fork.blocked():
                self.process.start()
        except (OSError, EOFError) as error:
            raise UserError(f"no process can be started for a stage: {error}") from None
        theirs.close()
        self.stage: str | None = None
        self._started = 0.0

    def begin(self, name: str) -> None:
        self.stage, self._started = name, time.perf_counter()
        with contextlib.suppress(OSError):  # killed meanwhile, as `end` will find
            self.orders.send(name)

    def end(self) -> Outcome:
        name, self.stage = str(self.stage), None
        try:
            status = self.orders.recv()
        except (EOFError, OSError):
            status = None
            # Its stage is an orphan, and would go on.
            self.signal(signal.SIGTERM)
        return Outcome(name, status, time.perf_counter() - self._started, self.output.read())

    def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)
