"""The command `repro`: `dvc repro` on all cores."""

import contextlib
import fcntl
import gc
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from charlm import check
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError
from charlm.files import read_json, write_json
from charlm.repro import fork, worker
from charlm.repro.schedule import Schedule, Task
from charlm.repro.workers import Outcome, Workers

LOCK = "charlm-repro.lock"
"""Locked by the one scheduler that is at work in this folder."""

SECONDS = "charlm-seconds.json"
"""What each stage took when it last ran here: for the order and the time left, nothing else."""

RECORDED, TYPICAL_S = Path("benchmarks/training_time.json"), 4.0
"""Where it never ran: recorded seconds of the trainings, and what any other stage takes."""

MOST_SHOWN = 3
"""Running stages that the progress line names."""

PASS_ON_S = 5.0
"""Seconds after which a stage that did not end is told to once more."""


def stages_to_run(targets: tuple[str, ...], threads: Callable[[str], int]) -> list[Task]:
    """Return the stages that are not up to date, and all that depend on them.

    Args:
        targets: stages to be brought up to date, with all that they depend on; none means all.
        threads: returns how many cores a stage keeps busy.

    Raises:
        UserError: dvc.yaml or dvc.lock cannot be read, or has no such stage.
    """
    # Importing DVC takes longer than the check that comes before.
    import dvc.dependency.param
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError
    from dvc.scm import SCMError

    from charlm.repro import params_file

    dvc.dependency.param.read_param_file = params_file.read
    seconds = expected_seconds()
    tasks: dict[Any, Task] = {}
    try:
        with Repo(".", _wait_for_lock=True) as repo, repo.lock, signals() as came, _shortcuts():
            graph = repo.index.graph  # an edge leads from a stage to what it depends on
            needs_of = {stage: set(graph.successors(stage)) for stage in graph}
            order = list(TopologicalSorter(needs_of).static_order())
            named = {stage.addressing: [stage] for stage in order}
            # To collect what is no whole name, DVC reads everything anew.
            wanted = {
                stage
                for target in targets
                for stage in named.get(target) or repo.stage.collect(target)
            }
            for stage in reversed(order):
                wanted |= needs_of[stage] if stage in wanted else set()
            for stage in order:
                if came:  # raised anywhere, it would leave DVC's list of locked files half written
                    raise KeyboardInterrupt
                if targets and stage not in wanted:
                    continue
                needed = needs_of[stage]
                if needed & set(tasks) or stage.changed():
                    name = stage.addressing
                    needs = frozenset(one.addressing for one in needed)
                    expected = seconds.get(name, TYPICAL_S)
                    module = isinstance(stage.cmd, str) and bool(fork.MODULE.fullmatch(stage.cmd))
                    tasks[stage] = Task(name, needs, threads(name), expected, module)
            if came:
                raise KeyboardInterrupt
    except SCMError:
        raise UserError(
            "no git repository here: run `git init`, or `dvc config --local core.no_scm true` to "
            "go without one"
        ) from None
    except (RWLockFileCorruptedError, RWLockFileFormatError):
        file = worker.scratch() / "rwlock"
        raise UserError(f"{file} is damaged, by a process that was killed: remove it") from None
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None
    return list(tasks.values())


@contextmanager
def _shortcuts() -> Iterator[None]:
    """Let DVC look at the stages in half the time, while its repository is locked.

    For each stage it writes its list of files in use six times, as one who reads them. Where nobody
    writes files that is for nothing: who wants to be on the list has to lock the repository first.
    And looking for garbage is left out; what DVC has built is kept until this process ends.
    """
    from dvc import rwlock

    by_dvc = rwlock.rwlock
    in_use = worker.scratch() / rwlock.RWLOCK_FILE
    # A list that cannot be read is left to DVC, which says so.
    with contextlib.suppress(ValueError, AttributeError):
        if not in_use.exists() or not json.loads(in_use.read_bytes()).get("write"):
            rwlock.rwlock = lambda *_: contextlib.nullcontext()
    gc.disable()
    try:
        yield
    finally:
        rwlock.rwlock = by_dvc
        gc.freeze()
        gc.enable()


def expected_seconds() -> dict[str, float]:
    """Return about how long stages take, as far as it is known."""
    seconds: dict[str, float] = {}
    with contextlib.suppress(UserError, LookupError, TypeError):
        runs = read_json(RECORDED)["runs"]
        seconds = {f"train@{name}": TYPICAL_S + run["seconds"] for name, run in runs.items()}
    with contextlib.suppress(UserError, TypeError):
        seconds |= read_json(worker.scratch() / SECONDS)
    return seconds


def threads(stage: str, settings: params.Params) -> int:
    """Return how many cores a stage keeps busy."""
    kind, _, name = stage.partition("@")
    if kind != "train" or name not in settings.runs:
        return 1
    return settings.runs[name].training.threads * settings.processes


@contextmanager
def alone() -> Iterator[None]:
    """Be the only one that schedules in this folder.

    Raises:
        UserError: there is another one.
    """
    scratch = worker.scratch()
    with (scratch / LOCK).open("a") as file, (scratch / worker.LOCK).open("a") as workers:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                "the pipeline is running in this folder already: wait until it ends, or stop it"
            ) from None
        try:
            fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            click.echo("waiting for stages of a run that was killed", err=True)
            fcntl.flock(workers, fcntl.LOCK_EX)
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end; raised anywhere, they could lose a stage."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(schedule: Schedule, workers: Workers, came: list[int]) -> int:
    """Run all stages of a schedule; return 0, or the status of the first stage that failed.

    After a failure, or a signal, nothing new is started, and what is running is waited for.

    Args:
        schedule: of the stages.
        workers: that run them.
        came: signals so far, of `signals`.
    """
    status, seen, told = 0, 0, math.inf
    took: dict[str, float] = {}
    with tqdm(total=len(schedule), disable=None, leave=False, bar_format="{desc}") as line:
        while schedule.active:
            if not status:
                for task in schedule.start():
                    workers.give(task.name)
            if not schedule.running:
                break
            line.set_description_str(_in_words(schedule, status))
            for outcome in workers.wait(1.0):
                for text in (f"{outcome.name} ({outcome.seconds:.0f} s)", *outcome.lines):
                    line.write(text, file=sys.stderr)
                schedule.done(outcome.name)
                if outcome.status == 0:
                    took[outcome.name] = outcome.seconds
                elif not status:
                    status = 130 if came else _failed(outcome, line)
            if len(came) > seen or time.monotonic() - told > PASS_ON_S:
                status, seen, told = status or 130, len(came), time.monotonic()
                workers.interrupt()
    with contextlib.suppress(UserError):  # on a full disk the next order is only a guess
        write_json(worker.scratch() / SECONDS, expected_seconds() | took)
    return status


def _failed(outcome: Outcome, line: Any) -> int:
    """Say what failed; return the exit status."""
    why = "" if outcome.status is not None else " (its process was killed)"
    line.write(f"stage {outcome.name} failed{why}", file=sys.stderr)
    return outcome.status or 1


def _in_words(schedule: Schedule, status: int) -> str:
    """Return the progress line."""
    shown, more = schedule.running[:MOST_SHOWN], schedule.running[MOST_SHOWN:]
    running = ", ".join(shown) + (f" and {len(more)} more" if more else "")
    if status:
        return f"stopping: waiting for {running}"
    seconds = schedule.seconds_left()
    left = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    return f"{schedule.finished} of {len(schedule)} stages done, about {left} left: {running}"


@click.command()
@click.argument("targets", nargs=-1)
@click.option("--jobs", type=click.IntRange(min=1), help="Stages at a time; as many as cores.")
@one_line_errors
def main(targets: tuple[str, ...], jobs: int | None) -> None:
    """Bring the pipeline up to date, with several stages at a time.

    It does what `dvc repro` does, and leaves the same files. TARGETS are stages; without them it is
    the whole graph, and the leaderboard is printed. Ctrl-C stops it, and nothing that was finished
    is lost.

    \b
    Examples:
      charlm repro
      charlm repro --jobs 2 evaluate@lstm
    """
    settings = check.check_file(Path("params.yaml"))
    status = reproduce(targets, jobs, lambda stage: threads(stage, settings))
    if status == 0 and not targets:
        from charlm.report import summary

        if summary.LEADERBOARD.is_file():
            summary.show()
    sys.exit(status)


def reproduce(
    targets: tuple[str, ...], jobs: int | None, threads: Callable[[str], int] = lambda stage: 1
) -> int:
    """Bring the pipeline of the working directory up to date; return the exit status.

    Args:
        targets: as of `stages_to_run`.
        jobs: stages at a time; None means as many as cores.
        threads: as of `stages_to_run`.
    """
    with alone():
        tasks = stages_to_run(targets, threads)
        if not tasks:
            click.echo("Data and pipelines are up to date.", err=True)
            return 0
        with fork.Server(sum(task.module for task in tasks)) as server, signals() as came:
            workers = Workers(server)
            try:
                status = run(Schedule(tasks, jobs or cores()), workers, came)
            finally:
                workers.close()
    if status == 130:
        click.echo("stopped; what was finished is kept, and the next call goes on from there")
    return status


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
