"""Seconds of training, kept apart from every output: the same run takes another time elsewhere."""

import hashlib
import json
import os
import platform
import re
from pathlib import Path

from charlm.files import read_json, write_json

FOLDER = ".timings"
"""In the project's folder; git and DVC ignore it."""


def training_key(folder: Path, encoded: Path) -> str:
    """Return what tells one training from another: its configuration and its text.

    Seconds of training are recorded under this key, so that they are never shown for another model,
    another configuration or another text.

    Args:
        folder: of a saved model.
        encoded: folder of the encoded corpus.

    Raises:
        UserError: a file is missing or damaged.
    """
    config = read_json(folder / "config.json")
    training = {
        key: value for key, value in config.items() if key not in ("weights_sha256", "code")
    }
    content = json.dumps([training, read_json(encoded / "digests.json")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def record(root: Path, name: str, key: str, seconds: float) -> None:
    """Write how long a training took on this machine.

    Args:
        root: the project's root.
        name: of the run.
        key: as `training_key` returns it.
        seconds: of training.
    """
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    timing = {"key": key, "seconds": seconds, "machine": machine}
    write_json(root / FOLDER / f"{name}.json", timing)


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1] if name else platform.machine()
