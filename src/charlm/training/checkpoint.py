"""Checkpoints: all that a stopped training needs to go on, in one file that is replaced whole.

A checkpoint is used only by the training that wrote it: its fingerprint covers parameters, data,
code, versions and threads. A training that goes on from it ends in the same bytes as one that was
never stopped. A lock keeps a second training from using the file; the system releases it when a
process dies.
"""

import contextlib
import hashlib
import itertools
import json
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from charlm.errors import UserError
from charlm.files import project_root, sha256, write_bytes
from charlm.models.base import LanguageModel, State

FOLDER = ".checkpoints"
"""In the project's root: apart from the outputs, which DVC removes before a stage runs, and from
the copy that a queued experiment runs in. Git and DVC ignore it."""

DIGITS = 12
"""Of the fingerprint in a checkpoint's name: trainings of one run do not meet."""

OLD_S = 7 * 24 * 3600
"""Seconds after which the checkpoint of a training that nobody went on with is removed."""


class Interrupted(Exception):
    """A signal stopped a training, after a checkpoint.

    Attributes:
        status: exit status of its process, 128 and the signal's number.
        step: optimiser steps in the checkpoint.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped after step {step:,}")
        self.status = 128 + number
        self.step = step


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment: tensors by name, and the rest as JSON.

    Attributes:
        tensors: weights, optimiser, carried state and random states.
        content: steps, curve and the form of the state.
    """

    tensors: dict[str, Tensor]
    content: dict[str, Any]


def folder() -> Path:
    """Return where checkpoints lie: in the project's root, or here if there is no project."""
    try:
        return project_root() / FOLDER
    except UserError:
        return Path(FOLDER)


def fingerprint(parts: Iterable[Any]) -> str:
    """Return one digest of everything that decides what a training becomes.

    Args:
        parts: files, whose content counts, and values that JSON can hold.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(bytes.fromhex(sha256(part)))
        else:
            digest.update(hashlib.sha256(json.dumps(part).encode()).digest())
    return digest.hexdigest()


class CheckpointFile:
    """The checkpoint of one training, and the signals that ask it to stop.

    Its file is FOLDER/NAME-FINGERPRINT.

    Within `with`, no other training can use the file, and Ctrl-C or SIGTERM makes `due` true
    instead of ending the process; a second Ctrl-C ends it.

    Args:
        folder: of the file.
        name: of the run.
        identity: fingerprint of the training; a checkpoint of another training is not used.
        seconds: between two checkpoints.

    Raises:
        UserError: on entering, if another process uses the file.
    """

    def __init__(self, folder: Path, name: str, identity: str, seconds: float) -> None:
        self._name = name
        self._path = folder / f"{name}-{identity[:DIGITS]}"
        self._identity = identity
        self._seconds = seconds
        self._lock = FileLock(self._path.with_name(f"{self._path.name}.lock"), timeout=0)
        self._saved = time.monotonic()
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self._name} is being trained by another process: wait for it or stop it"
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
    def asked(self) -> bool:
        """Whether a signal asked for an end."""
        return bool(self._signal)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint, or a signal asks for one."""
        return bool(self._signal) or time.monotonic() - self._saved >= self._seconds

    def load(self) -> Checkpoint | None:
        """Return this training's checkpoint, if there is one.

        A checkpoint of another training is not used, nor is a damaged file; the next checkpoint
        replaces both.
        """
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                content = json.loads((file.metadata() or {}).get("content", "{}"))
                if content.get("identity") != self._identity:
                    return None
                return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, content)  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file.

        Raises:
            Interrupted: a signal asked for it.
        """
        content = {"identity": self._identity, **checkpoint.content}
        # Parts of one tensor cannot be written side by side, copies of them can.
        tensors = {name: t.detach().cpu().clone() for name, t in checkpoint.tensors.items()}
        write_bytes(self._path, safetensors.torch.save(tensors, {"content": json.dumps(content)}))
        self._saved = time.monotonic()
        if self._signal:
            raise Interrupted(self._signal, content["step"])

    def remove(self) -> None:
        """Remove the file, once the outputs of the training are written, and what is old."""
        self._path.unlink(missing_ok=True)
        for other in self._path.parent.glob(f"{self._name}-{'?' * DIGITS}*"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > OLD_S:
                    other.unlink()


def capture(
    model: LanguageModel, optimizer: torch.optim.Optimizer, state: State, progress: dict[str, Any]
) -> Checkpoint:
    """Return the checkpoint of a training between two steps.

    Args:
        model: with its weights.
        optimizer: of the model's parameters.
        state: carried into the next batch.
        progress: what the loop counts, as JSON.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for place, parameter in enumerate(model.parameters()):
        for name, value in optimizer.state[parameter].items():
            # SGD without momentum remembers None.
            if isinstance(value, Tensor):
                tensors[f"optimizer.{place}.{name}"] = value
    parts: list[Tensor] = []
    content = {**progress, "state": _form(state, parts)}
    tensors |= {f"state.{place}": tensor for place, tensor in enumerate(parts)}
    tensors["random.cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    return Checkpoint(tensors, content)


def restore(
    checkpoint: Checkpoint, model: LanguageModel, optimizer: torch.optim.Optimizer
) -> State:
    """Put weights, optimiser and random states back, and return the carried state."""
    tensors = checkpoint.tensors
    device = next(model.parameters()).device
    model.load_state_dict(
        {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    )
    parameters = list(model.parameters())
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".")
            optimizer.state[parameters[int(place)]][key] = tensor.to(device)
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    parts = (tensors[f"state.{place}"].to(device) for place in itertools.count())
    return _filled(checkpoint.content["state"], parts)


def _form(state: State, parts: list[Tensor]) -> Any:
    """Return a state's form as JSON; its tensors go to `parts`, in order."""
    if isinstance(state, Tensor):
        parts.append(state)
        return "tensor"
    return [_form(part, parts) for part in state] if isinstance(state, tuple) else state


def _filled(form: Any, parts: Iterator[Tensor]) -> State:
    """Return the state of a form, with its tensors taken from `parts`."""
    if form == "tensor":
        return next(parts)
    return tuple(_filled(part, parts) for part in form) if isinstance(form, list) else form
