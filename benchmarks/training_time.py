"""Time the training of every model of the zoo, one after the other, and record it.

    python -m benchmarks.training_time        writes benchmarks/training_time.json

The report shows these seconds, because a pipeline whose outputs held a clock would never give the
same bytes twice. Training alone is timed: no start-up, no MLflow, no evaluation of the holdout.
Run it on a machine that does nothing else; it needs data/encoded (`dvc repro encode`).
"""

import datetime
import json
import os
import platform
import time
from pathlib import Path

import torch

import stages  # puts this copy's src first
from charlm import encoding, models, params, training
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.vocabulary import Vocabulary

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/training_time.json"


def processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device) -> str:
    """Return what a timing was taken on: device, system, versions and the day."""
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {os.cpu_count()} cores"
    )
    return (
        f"{where}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {datetime.date.today().isoformat()}"
    )


def main() -> None:
    """Train each model of the zoo at the scale in params.yaml and write the seconds."""
    settings = params.load(ROOT / "params.yaml")
    encoded = ROOT / "data/encoded"
    device = start_torch()
    size = len(Vocabulary.load(encoded / "vocabulary.json"))
    ids = {
        split: torch.tensor(encoding.load_split(encoded, split)).to(device)
        for split in encoding.SPLITS
    }
    ids["all"] = torch.cat(list(ids.values()))
    seconds: dict[str, float] = {}
    for name, entry in settings.models.items():
        budget = entry.training
        torch.manual_seed(settings.seeds.initialisation)
        model = models.build(entry.model, size, budget.block, entry.architecture).to(device)
        started = time.perf_counter()
        curve = training.fit(
            model, ids[budget.trained_on], ids["validation"], budget, settings.seeds.training
        )
        seconds[name] = round(time.perf_counter() - started, 1)
        rate = curve[-1].characters / seconds[name]
        print(f"{name}: {seconds[name]:.1f} s, {rate:,.0f} characters/s", flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.training_time",
            "scale": settings.scale,
            "machine": machine(device),
            "seconds": seconds,
        },
    )
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
