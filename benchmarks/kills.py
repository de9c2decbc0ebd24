"""Kills at random moments of a training on a GPU: does it end in the same bytes?

    python -m benchmarks.kills                  writes benchmarks/kills_gpu.json

`lstm` is trained once without a stop. Then it is trained again, killed (SIGKILL) three times at
random moments after its start, and called again each time, going on from its last checkpoint. Both
files of weights must be the same.
"""

import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.common import GPU_SCALE, ON_GPU, RECORDS, ROOT, at_scale, train
from benchmarks.machine import machine
from charlm import saved_model
from charlm.cli import script
from charlm.files import sha256, write_json
from charlm.models.base import start_torch
from charlm.training import checkpoint

OUTPUT = RECORDS / "kills_gpu.json"
KEPT = ROOT / checkpoint.FOLDER / "kills"
NAME, KILLS, SEED = "lstm", 3, 1
STEPS = 2000 if GPU_SCALE == "full" else 200
EVERY_S = 0.5
"""Seconds between two checkpoints."""


def train_into(folder: Path) -> None:
    """Train, or go on, and save the model."""
    settings = at_scale(GPU_SCALE, **{f"models__{NAME}__{GPU_SCALE}__steps": STEPS})
    model, config, *_ = train(
        settings.run(NAME), start_torch(), kept=folder / "kept", seconds=EVERY_S
    )
    saved_model.save(folder, model, config)


def killed(folder: Path, after: float) -> bool:
    """Start the training, kill it after some seconds; return whether it was still running."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.kills", str(folder)], cwd=ROOT)
    try:
        if process.wait(after):
            sys.exit("a training failed: its message stands above")
    except subprocess.TimeoutExpired:
        return True
    finally:
        # Also where this process is asked to end.
        process.kill()
        process.wait()
    return False


@script(__doc__)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def main(folder: Path | None) -> None:
    """Train into a folder, to be killed; without one train with kills and without, and record."""
    if folder:
        train_into(folder)
        return
    if not ON_GPU:
        sys.exit("benchmarks.kills needs a CUDA device; none was found")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shutil.rmtree(KEPT, ignore_errors=True)
    started = time.perf_counter()
    killed(KEPT / "whole", math.inf)
    seconds = time.perf_counter() - started
    moments = random.Random(SEED)
    kills: list[float] = []
    while len(kills) < KILLS:
        after = moments.uniform(0.3, 0.9) * seconds
        if killed(KEPT / "parts", after):
            kills.append(round(after, 1))
        else:
            # It came to its end first: the next one begins afresh.
            shutil.rmtree(KEPT / "parts")
    killed(KEPT / "parts", math.inf)
    digests = [sha256(KEPT / part / saved_model.WEIGHTS) for part in ("whole", "parts")]
    record = {
        "command": "python -m benchmarks.kills",
        "machine": machine(start_torch()),
        "run": NAME,
        "steps": STEPS,
        "seconds": round(seconds, 1),
        "killed_after": kills,
        "same_bytes": digests[0] == digests[1],
    }
    write_json(OUTPUT, record)
    print(record)
    shutil.rmtree(KEPT)
    sys.exit(not record["same_bytes"])


if __name__ == "__main__":
    main()
