"""What it costs to keep a training: `python -m benchmarks.keeping` writes benchmarks/keeping.json.

Each entry here trains for a moment at its quick budget's sizes and takes a snapshot at every look
at its loss. A snapshot every `checkpoint_every` seconds of params.yaml then takes this share of the
training's time.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from benchmarks.machine import machine
from benchmarks.sources import ENCODED, at_scale, load
from charlm.data.vocabulary import Vocabulary
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.saved_model import Config
from charlm.training import trainer
from charlm.training.checkpoint import Keeper, Snapshot

OUTPUT = Path(stages.__file__).parent.parent / "benchmarks/keeping.json"
ENTRIES, SNAPSHOTS = ("lstm", "gpt", "shake_lstm", "bigram"), 20


class Timed(Keeper):
    """A keeper that is always due and holds a watch."""

    seconds: list[float]

    @property
    def due(self) -> bool:
        """Whether a snapshot is wanted: always."""
        return True

    def save(self, snapshot: Snapshot) -> None:
        """Write the snapshot and note how long that took."""
        started = time.perf_counter()
        super().save(snapshot)
        self.seconds.append(time.perf_counter() - started)


def main() -> None:
    """Time the snapshots of each entry and record their share."""
    device, settings = start_torch(), at_scale("quick")
    symbols = Vocabulary.load(ENCODED / "vocabulary.json").symbols
    ids = load(device)
    results: dict[str, Any] = {}
    for name in ENTRIES:
        entry = settings.model(name)
        budget = entry.training.model_copy(
            update={"steps": SNAPSHOTS + 2, "warmup": 0, "validate_every": 10}
        )
        torch.manual_seed(1)
        model = Config.of(entry, symbols, settings.seeds).build().to(device)
        with tempfile.TemporaryDirectory() as folder, Timed(Path(folder) / name, "", 0) as keeper:
            keeper.seconds = []
            trainer.fit(model, ids["train"], ids["validation"], budget, 2, keeper=keeper)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*"))
        seconds = statistics.fmean(keeper.seconds)
        results[name] = {
            "snapshots": len(keeper.seconds),
            "megabytes": round(size / 1e6, 1),
            "seconds_each": round(seconds, 4),
            "share": round(seconds / (settings.checkpoint_every + seconds), 5),
        }
        print(name, results[name], flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.keeping",
            "machine": machine(device),
            "checkpoint_every_seconds": settings.checkpoint_every,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
