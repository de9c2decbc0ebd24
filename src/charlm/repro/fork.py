"""Workers and stages as forks of one process that has imported the libraries.

A new Python takes longer to import torch than most stages take to work, and the graph has a hundred
of them. A stage imports the project's code itself: it may be edited while the graph runs, and DVC
notes its digest as a stage begins.
"""

import atexit
import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Self

import psutil

from charlm.errors import UserError

FORKS = sys.platform == "linux" and sys.version_info < (3, 14)
"""Elsewhere each stage gets a new Python. On macOS a fork must not use the GPU, nor some of the
system's own libraries; from Python 3.14 on a fork of the server cannot ask it for another.
"""

MODULE = re.compile(r"(?:cd (?P<folder>[\w./-]+) && )?python -m (?P<words>[\w.]+( [\w./=@-]+)*)")
"""A command that needs no shell."""

FROM_TERMINAL = {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP}
"""Signals that a terminal, or who ends a process group, sends to all of it."""

SERVER_ENDED = 255
"""Exit status that Python gives a fork whose server was killed."""


@contextmanager
def blocked() -> Iterator[None]:
    """Let what is started meanwhile begin with `FROM_TERMINAL` blocked, and with it its forks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Server:
    """The process that the others are forks of; it begins to import at once.

    Args:
        modules: number of stages whose command is a Python module.

    Attributes:
        context: whose processes are forks of it.

    Raises:
        UserError: it cannot be started.
    """

    def __init__(self, modules: int) -> None:
        self.context: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
        if not FORKS:
            return
        # A single one begins sooner if it imports no more than it needs.
        self.context.set_forkserver_preload(["charlm.repro.libraries"] if modules > 1 else [])
        resource_tracker.ensure_running()  # its start unblocks signals
        try:
            with blocked():
                forkserver.ensure_running()
        except OSError as error:
            raise UserError(
                f"no process can be started that stages are forked from ({error}): "
                "try TMPDIR=/tmp, a shorter path"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; it would end by itself, but not before it has imported everything."""
        server: Any = forkserver._forkserver
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()


def take_over(output: str) -> None:
    """Let DVC fork its stages in this process, which is a fork itself, if they are Python modules.

    Args:
        output: file that gets everything that they print.
    """
    from dvc.stage import run
    from dvc.stage.exceptions import StageCmdFailedError

    if not FORKS:
        return
    context = multiprocessing.get_context("forkserver")
    # What this is a fork of is running. Python would start another one in its place.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    by_shell = run._run

    def by_fork(executable: str, command: str, **options: Any) -> None:
        found = MODULE.fullmatch(command)
        folder = Path(options["cwd"], found["folder"] or "").resolve() if found else None
        if not (found and folder and folder.is_dir()):
            by_shell(executable, command, **options)
            return
        module, *words = found["words"].split()
        environment = dict(options["env"]) | {"PWD": str(folder)}
        arguments = module, words, str(folder), environment, output, os.getpgid(0)
        process = context.Process(target=_stage, args=arguments)
        try:
            process.start()
        except (OSError, EOFError):  # no memory, or what it is forked from was killed
            raise StageCmdFailedError(command, 1) from None
        process.join()
        if process.exitcode == SERVER_ENDED and process.pid:
            # It may still be at work, and nobody knows how it will end.
            with suppress(psutil.Error):
                psutil.Process(process.pid).wait()
        if process.exitcode:
            raise StageCmdFailedError(command, process.exitcode)

    run._run = by_fork


def belong(group: int, output: str) -> None:
    """Join a process group, print into a file, and take signals again, but for SIGINT.

    Args:
        group: 0 is one of its own.
        output: the file.
    """
    os.setpgid(0, group)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINAL - {signal.SIGINT})


def _stage(
    module: str,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    output: str,
    group: int,
) -> None:
    """Do in a fork what `python -m` with these words does in a new process."""
    belong(group, output)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # This package may be that of another copy of the project; a stage imports its own.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("charlm", "stages")]:
        del sys.modules[name]
    sys.argv[1:] = words
    sys.path.insert(0, folder)
    # Where the pipeline was begun in the background, Ctrl-C is ignored; what it passes on is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
