"""A process that reproduces stages by DVC, one after the other.

DVC and its imports are paid for once a worker, and not once a stage.
"""

import fcntl
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from charlm.errors import UserError
from charlm.repro import fork

LOCK = "charlm-workers.lock"
"""Each worker has a shared lock on it, so that one whose scheduler was killed is waited for."""

LOCK_TIMEOUT_S = 0.3
"""DVC looks again at its lock after a sixth of it. By default it is 3: workers would sleep longer
than another one holds the lock.
"""


def scratch() -> Path:
    """Return DVC's own folder for what nobody keeps; .dvc may lie above the project.

    Raises:
        UserError: there is no .dvc.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".dvc").is_dir():
            (folder / ".dvc/tmp").mkdir(exist_ok=True)
            return folder / ".dvc/tmp"
    raise UserError(f"no .dvc in {Path.cwd()} or above: run this in a clone of the project")


def work(orders: Connection, output: str) -> None:
    """Reproduce each stage that is named, and answer with its exit status.

    It goes on until the other end of the connection is closed, or its process has ended: the stage
    that is running then ends as it would have otherwise.

    Args:
        orders: names of stages come in, numbers go out.
        output: file that gets everything that DVC and the stages print.
    """
    # A group of its own: Ctrl-C reaches the scheduler alone, which passes it on.
    fork.belong(0, output)
    # DVC is never stopped while it writes dvc.lock, but the stage's command is.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    import dvc.dependency.param
    import dvc.dvcfile
    import dvc.lock
    import dvc.utils.strictyaml
    from dvc.cli import main as run_dvc

    from charlm.repro import lock_file, params_file

    fork.take_over(output)
    dvc.dependency.param.read_param_file = params_file.read
    dvc.dvcfile.modify_yaml = lock_file.modify
    dvc.utils.strictyaml.parse_yaml = lock_file.parse
    dvc.lock.DEFAULT_TIMEOUT = LOCK_TIMEOUT_S
    with (scratch() / LOCK).open("a") as busy:
        fcntl.flock(busy, fcntl.LOCK_SH)
        while True:
            try:
                name = orders.recv()
            except EOFError:
                return
            # What comes before it is up to date, or was reproduced by another worker.
            status = run_dvc(["--wait-for-lock", "repro", "--single-item", name])
            try:
                orders.send(status)
            except OSError:
                return  # the scheduler was killed
