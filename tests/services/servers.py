"""Programs that a test needs running, and MLflow's pages among them."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.workspace import PROJECT

START_S = 120
"""Seconds that a server may take to answer; MLflow's first start makes its tables."""


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running(
    command: list[str], answers: Callable[[], object], end: int = signal.SIGTERM, **how: Any
) -> Iterator[None]:
    """Run a server, with all the processes it starts, from its first answer to the end."""
    process = subprocess.Popen(command, start_new_session=True, **how)
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, f"{command} ended: {process.returncode}"
            assert time.monotonic() < deadline, f"{command} does not answer"
            try:
                answers()
                break
            except Exception:
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, end)
        process.wait(30)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


@contextmanager
def mlflow_pages(database: Path) -> Iterator[str]:
    with (
        closing(sqlite3.connect(PROJECT / "mlflow.db")) as source,
        closing(sqlite3.connect(database)) as copy,
    ):
        source.backup(copy)
        # The project may have been moved since its runs were made.
        query = "SELECT artifact_location FROM experiments WHERE name != 'Default'"
        for (old,) in copy.execute(query).fetchall():
            new = (PROJECT / "mlartifacts").as_uri()
            copy.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (old, new))
        copy.commit()
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "ui", "--uvicorn-opts", "--log-level warning"]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": database.parent}
    with running(command, lambda: fetch(f"{url}/health"), **how):
        yield url


@contextmanager
def chromium() -> Iterator[Any]:
    """Run the system's headless Chromium; it is None if there is none."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        yield None
        return
    with sync_playwright() as driver:
        # Chromium's own sandbox needs rights that a container does not have.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
