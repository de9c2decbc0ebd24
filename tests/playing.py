"""The playground of small models on a port of its own: what both of its tests need."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
import uvicorn

from charlm import saved_model
from charlm.config import params
from charlm.serving import playground
from tests.workspace import PROJECT
from tests.zoo import build, config

SYMBOLS = "".join(sorted(set("ROMEO: to be, or not\n")))


def project(folder: Path, *names: str) -> Path:
    """Make a folder with params.yaml and fresh models, and return it."""
    shutil.copy(PROJECT / "params.yaml", folder)
    for name in names:
        model, _ = build(name, len(SYMBOLS))
        saved_model.save(folder / "models" / name, model, config(name, SYMBOLS))
    return folder


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder's models to this machine and yield the address."""
    settings = params.load(folder / "params.yaml")
    cpu, hosts = torch.device("cpu"), ("127.0.0.1", "localhost")
    api = playground.app(folder / "models", folder / "results", settings, cpu, hosts)
    with playground.listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
