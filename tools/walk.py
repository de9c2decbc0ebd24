"""Run every command of the documents in copies of the project: `make walk`.

A copy has a small zoo at scale smoke. What a reader would put in for an example's names and paths
is put in here. A command that is not run says why. `python -m tools.walk docs/serving.md` walks
through these documents only.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import click

from charlm.cli import script
from tests.pipeline.test_docs import DOCUMENTS, blocks
from tests.workspace import PROJECT, TINY, copy_project, environment, run

ZOO = (
    "add_one",
    "bigram",
    "attention",
    "rnn",
    "gpt",
    "lstm",
    "ngram_lstm",
    "kneser_ney",
    "mixture",
)

NOT_RUN = {
    "ideas": "the ideas need the whole zoo: tests/pipeline/test_ideas.py runs some",
    "make test": "it is this project's own test suite",
    "make lint": "continuous integration runs it",
    "eval ": "it is for the shell of a person",
    "source": "the environment is active here",
    "scale=full": "for a GPU",
    "export": "for those who have PostgreSQL and a store: make services runs it",
    "make extras": "it installs what make services needs",
    "make server": "for those who have PostgreSQL and a store: make services runs it",
    "curl": "make services asks a served model",
    "make pull": "tests/services/test_remotes.py pulls from a server",
    "dask": "for those who have a cluster: make services counts on one",
    "cluster": "for those who have a cluster: make services counts on one",
    "--database": "for those who have a database: make services shares a search",
    "tools.pull_request": "it runs the graph of two commits",
}
"""Reasons by what a command contains."""

PUT_IN = {
    "quick.steps=2000": "smoke.steps=2000 -n lower-uvea",
    "quick.": "smoke.",
    "steps=400,500": "steps=4,5",
    "--trials 6": "--trials 2",
    "/home/you/sonnets.txt": "{folder}/../sonnets.txt",
    "http://mlflow.example.org:5000": "sqlite:///{folder}/../other.db",
}
"""What a reader would put in, by what a command contains."""

SERVERS = {"make ui": 5000, "make serve": 5001}
"""Ports of what goes on until it is stopped."""

WAIT_S = 120


def prepare(folder: Path) -> None:
    """Make the copy a repository beside a git remote, with the environment that is active here."""
    text = (PROJECT / "data/raw/corpus.txt").read_text(encoding="utf-8")
    source = str(PROJECT / "data/raw/corpus.txt")
    copy_project(folder, ZOO, **TINY, corpus__sources=[source])
    (folder.parent / "sonnets.txt").write_text(text[:50_000], encoding="utf-8")
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(folder / name, (0, 0))  # nothing to install
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent, target_is_directory=True)
    run(folder, "git", "init", "-qb", "main")
    (folder / ".git/info/exclude").write_text("/.venv\n")
    for key, value in (("user.name", "A Newcomer"), ("user.email", "new@example.org")):
        run(folder, "git", "config", key, value)
    run(folder.parent, "git", "init", "-qb", "main", "--bare", "team.git")


def walk(folder: Path, command: str) -> str:
    """Run one command and return its output.

    Raises:
        AssertionError: it failed.
    """
    for example, real in PUT_IN.items():
        command = command.replace(example, real.format(folder=folder))
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        port = next((port for make, port in SERVERS.items() if command.startswith(make)), None)
        if port is not None:
            answered = answers(port, process)
            with contextlib.suppress(ProcessLookupError):  # it ended by itself: a failure
                os.killpg(process.pid, signal.SIGINT)
        status = process.wait()
        output.seek(0)
        text = output.read()
    assert answered if port is not None else status == 0, f"{command} gave {status}:\n{text}"
    return text


def answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Return whether something answers at a port before its process ends."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.5)
    return False


@script(__doc__)
@click.argument("documents", nargs=-1, type=click.Choice(DOCUMENTS), metavar="[DOCUMENT]...")
def main(documents: tuple[str, ...]) -> None:
    """Walk through every document, each in a copy of one finished project."""
    count, done, failed = 0, set[str](), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        finished = Path(scratch) / "finished" / "charlm"
        finished.mkdir(parents=True)
        prepare(finished)
        walk(finished, "make repro")
        afterwards(finished, "make repro")
        for document in documents or DOCUMENTS:
            if not blocks(document):
                continue
            project = Path(scratch) / Path(document).stem / "charlm"
            shutil.copytree(finished.parent, project.parent, symlinks=True)
            print(document, flush=True)
            count += walk_document(project, document, done, failed)
    for failure in failed:
        print(f"FAILED {failure}")
    print(f"{count} commands of {len(documents or DOCUMENTS)} documents run, {len(failed)} failed")
    sys.exit(bool(failed))


def walk_document(project: Path, document: str, done: set[str], failed: list[str]) -> int:
    """Run the commands of a document that were not run before; return how many there were.

    Args:
        project: a copy of the finished project.
        document: its name.
        done: the commands that were run; it grows.
        failed: what failed, or showed a traceback; it grows.
    """
    count = 0
    for block in blocks(document):
        folder = project
        for command in block:
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
                continue
            reason = next((why for part, why in NOT_RUN.items() if part in command), None)
            if reason:
                if command not in done:
                    print(f"   -    {command}   (not run: {reason})", flush=True)
            elif command not in done or folder != project or "exp" in command:
                started = time.monotonic()
                try:
                    output = walk(folder, command)
                    assert "Traceback" not in output, output
                except AssertionError as error:
                    failed.append(f"{document}: {error}")
                    print(f" FAIL    {command}", flush=True)
                print(f"{time.monotonic() - started:5.0f} s  {command}", flush=True)
                count += 1
                afterwards(project, command)
            done.add(command)
    return count


def afterwards(project: Path, command: str) -> None:
    """Do what a reader does between two commands: commit, put back, wait."""
    if command == "make repro":
        run(project, "git", "add", ".")
        run(project, "git", "commit", "--allow-empty", "-qm", "state")
    if re.match("dvc exp run(?!.*--queue)", command):
        run(project, "git", "checkout", "-q", ".")
    if command.endswith("queue start -j 2"):
        while re.search("Queued|Running", run(project, "dvc", "queue", "status").stdout):
            time.sleep(1)


if __name__ == "__main__":
    main()
