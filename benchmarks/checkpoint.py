"""What checkpoints cost: `python -m benchmarks.checkpoint` writes benchmarks/checkpoint.json.

Each run here trains for a moment at the sizes of scale quick and saves a checkpoint at every look
at its loss. A checkpoint every `checkpoint_every` seconds of params.yaml then takes this share of
the training's time.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import stages  # puts this copy's src first
from benchmarks.common import at_scale, build, load
from benchmarks.machine import machine
from charlm.cli import script
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.training.checkpoint import Checkpoint, CheckpointFile
from charlm.training.trainer import Trainer

OUTPUT = Path(stages.__file__).parent.parent / "benchmarks/checkpoint.json"
RUNS, CHECKPOINTS = ("lstm", "gpt", "shake_lstm", "bigram"), 20


class Timed(CheckpointFile):
    """A file that is always due and measures how long saving takes."""

    seconds: list[float]

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: always."""
        return True

    def save(self, checkpoint: Checkpoint) -> None:
        """Save the checkpoint and note how long that took."""
        started = time.perf_counter()
        super().save(checkpoint)
        self.seconds.append(time.perf_counter() - started)


@script(__doc__)
def main() -> None:
    """Time the checkpoints of each run and record their share."""
    device, settings = start_torch(), at_scale("quick")
    ids = load(device)
    results: dict[str, Any] = {}
    for name in RUNS:
        run = settings.run(name)
        plan = run.training.model_copy(
            update={"steps": CHECKPOINTS + 2, "warmup": 0, "validate_every": 10}
        )
        model, _ = build(run, device)
        with tempfile.TemporaryDirectory() as folder, Timed(Path(folder), name, "", 0) as file:
            file.seconds = []
            Trainer(model, ids["train"], ids["validation"], plan, 2, checkpoints=file).fit()
            size = sum(file.stat().st_size for file in Path(folder).rglob("*"))
        seconds = statistics.fmean(file.seconds)
        results[name] = {
            "checkpoints": len(file.seconds),
            "megabytes": round(size / 1e6, 1),
            "seconds_each": round(seconds, 4),
            "share": round(seconds / (settings.checkpoint_every + seconds), 5),
        }
        print(name, results[name], flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.checkpoint",
            "machine": machine(device),
            "checkpoint_every_seconds": settings.checkpoint_every,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
