"""Record how long each run of params.yaml trained in the last `make repro` on this machine.

    make repro
    python -m benchmarks.training_time        writes benchmarks/training_time.json

The report shows these seconds, because a pipeline whose outputs held a clock would never give the
same bytes twice. They count training alone, with its loss curve: without start-up, MLflow and the
evaluation of the holdout. Run the pipeline on a machine that does nothing else. A run that was
taken from DVC's cache, or went on from a checkpoint, has no seconds of its own and is left out.
"""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from charlm.cli import script
from charlm.errors import UserError
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.report import leaderboard
from charlm.timings import processor

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/training_time.json"


def timed_runs(root: Path) -> dict[str, dict[str, Any]]:
    """Return key and seconds of each saved model that was trained on this machine, by run.

    Raises:
        UserError: none of them was.
    """
    keys = leaderboard.training_keys(root / "models", root / "data/encoded")
    seconds = leaderboard.local_times(root / ".timings", keys).seconds
    if not seconds:
        raise UserError("no model in models/ was trained here: run `dvc repro --force` first")
    return {name: {"key": keys[name], "seconds": round(seconds[name], 1)} for name in seconds}


@script(__doc__)
def main() -> None:
    """Write the seconds of each run, and what they were measured on."""
    runs, device = timed_runs(ROOT), start_torch()
    machine = f"{processor()}, {os.cpu_count()} cores"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    system, python = platform.system(), platform.python_version()
    content = {
        "machine": machine,
        "versions": f"{system}, Python {python}, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "command": "make repro && python -m benchmarks.training_time",
        "runs": runs,
    }
    write_json(OUTPUT, content)
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
