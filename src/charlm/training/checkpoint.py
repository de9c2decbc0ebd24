"""Keeping a training: all that it needs to go on where it was, in one file, replaced whole.

A snapshot is used by the training that it was made by and by no other: its fingerprint covers
parameters, data, code, versions and threads. What goes on from it ends in the same bytes as what
was never stopped. One training at a time may use a file: a lock says so, which the system takes
away from a process that dies.
"""

import hashlib
import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from charlm.errors import UserError
from charlm.files import sha256, write_bytes

FOLDER = Path(".checkpoints")
"""Beside the outputs, which DVC removes before a stage runs; git and DVC ignore it."""


class Interrupted(Exception):
    """A training was asked to stop, and was kept.

    Attributes:
        status: exit status of its process, 128 and the signal's number.
        step: optimiser steps that were taken and kept.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped after step {step:,}")
        self.status = 128 + number
        self.step = step


@dataclass(frozen=True)
class Snapshot:
    """A training at one moment: numbers by name, and what JSON can say."""

    tensors: dict[str, Tensor]
    content: dict[str, Any]


def fingerprint(parts: Iterable[Any]) -> str:
    """Return one digest of everything that decides what a training becomes.

    Args:
        parts: files, whose content counts, and anything that JSON can say.
    """
    digest = hashlib.sha256()
    for part in parts:
        whole = isinstance(part, Path)
        found = sha256(part) if whole else hashlib.sha256(json.dumps(part).encode()).hexdigest()
        digest.update(bytes.fromhex(found))
    return digest.hexdigest()


class Keeper:
    """The snapshot of one training, and the signals that ask it to stop.

    Within `with`, nobody else can keep a training in the same file, and Ctrl-C or SIGTERM makes
    `due` true instead of ending the process; a second Ctrl-C ends it.

    Args:
        path: of the snapshot.
        identity: fingerprint of the training; a snapshot of another is not used.
        seconds: between two snapshots.

    Raises:
        UserError: on entering, if another process keeps a training there.
    """

    def __init__(self, path: Path, identity: str, seconds: float) -> None:
        self._path = path
        self._identity = identity
        self._seconds = seconds
        self._lock = FileLock(path.with_suffix(".lock"), timeout=0)
        self._kept = time.monotonic()
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self._path.stem} is being trained by another process: wait for it or stop it"
            ) from None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.release()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def due(self) -> bool:
        """Whether it is time for a snapshot, or a signal asks for one."""
        return bool(self._signal) or time.monotonic() - self._kept >= self._seconds

    def load(self) -> Snapshot | None:
        """Return this training's snapshot, if there is one.

        What another training left is not used, nor is a damaged file; both are replaced by the
        next snapshot.
        """
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                content = json.loads((file.metadata() or {}).get("content", "{}"))
                if content.get("identity") != self._identity:
                    return None
                return Snapshot({name: file.get_tensor(name) for name in file.keys()}, content)  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file.

        Raises:
            Interrupted: a signal asked for it.
        """
        content = {"identity": self._identity, **snapshot.content}
        # Parts of one tensor cannot be written side by side, copies of them can.
        tensors = {name: t.detach().cpu().clone() for name, t in snapshot.tensors.items()}
        write_bytes(self._path, safetensors.torch.save(tensors, {"content": json.dumps(content)}))
        self._kept = time.monotonic()
        if self._signal:
            raise Interrupted(self._signal, content["step"])

    def forget(self) -> None:
        """Remove the file: the training has ended and its outputs are written."""
        self._path.unlink(missing_ok=True)
