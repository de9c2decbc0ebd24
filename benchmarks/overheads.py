"""What is paid beside the work: `python -m benchmarks.overheads` writes benchmarks/overheads.json.

- A step of a training with and without the memory that a step frees (charlm.models.base): in turns,
  each in a process of its own, milliseconds and page faults of a step.
- One entry of dvc.lock, written by DVC and by `charlm repro`: seconds, the shortest of five.

Nothing else should run. It takes a minute.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from dvc.utils.serialize import modify_yaml

import stages  # puts this copy's src first
from benchmarks.common import at_scale
from benchmarks.machine import machine
from benchmarks.threads import Steps
from charlm.cli import script
from charlm.files import write_json
from charlm.models import base
from charlm.repro import lock_file

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/overheads.json"
MODELS, STEPS, TURNS = ("lstm", "ngram_lstm", "gpt", "lstm_scratch", "mlp"), 60, 3


def steps(name: str, kept: bool) -> dict[str, float]:
    """Take some steps in this process, and return what one costs."""
    if not kept:
        base._keep_freed_memory = lambda: None
    training = Steps(at_scale("quick").run(name))
    training.time(5, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = training.time(STEPS, 1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"ms": round(1000 * seconds / STEPS, 2), "page_faults": round(faults / STEPS)}


def both(name: str) -> dict[str, Any]:
    """Return the fastest of some turns, without and with kept memory."""
    found: dict[str, list[dict[str, float]]] = {"given_back": [], "kept": []}
    for _ in range(TURNS):
        for way, turns in found.items():
            command = [sys.executable, "-m", "benchmarks.overheads", name, way]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            turns.append(json.loads(done.stdout))
    return {way: min(turns, key=lambda turn: turn["ms"]) for way, turns in found.items()}


def lock_seconds(modify: Callable[[Path], Any]) -> float:
    """Return the seconds of writing another entry into a copy of dvc.lock."""
    took = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(shutil.copy(ROOT / "dvc.lock", scratch))
        for turn in range(5):
            started = time.perf_counter()
            with modify(path) as content:
                content["stages"]["download"]["cmd"] = f"echo {turn}"
            took.append(time.perf_counter() - started)
    return round(min(took), 3)


@script(__doc__)
@click.argument("name", required=False)
@click.argument("way", required=False)
def main(name: str | None, way: str | None) -> None:
    """Measure everything, or one model in one way as a process of its own."""
    if name:
        print(json.dumps(steps(name, way == "kept")))
        return
    lines = len((ROOT / "dvc.lock").read_text(encoding="utf-8").splitlines())
    record = {
        "command": "python -m benchmarks.overheads",
        "machine": machine(base.start_torch()),
        "dvc_lock": {
            "lines": lines,
            "by_dvc_s": lock_seconds(modify_yaml),
            "by_charlm_repro_s": lock_seconds(lock_file.modify),
        },
        "training_step": {name: both(name) for name in MODELS},
    }
    write_json(OUTPUT, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
