"""What runs again when a file is edited, on the real graph: `python -m tools.reruns`.

A comment is added to a file of each kind, `dvc repro --dry` says what would run, and the file is put
back. It needs a finished `make repro`.
"""

import re
import subprocess
from collections import Counter

from tests.workspace import PROJECT

FILES = (
    "src/charlm/models/gpt.py",
    "src/charlm/models/lstm.py",
    "src/charlm/models/kneser_ney.py",
    "src/charlm/models/base.py",
    "src/charlm/data/batches.py",
    "src/charlm/ngrams/counting.py",
    "src/charlm/entropy/estimators.py",
    "src/charlm/training/trainer.py",
    "src/charlm/saved_model.py",
    "src/charlm/evaluation/loss.py",
    "src/charlm/sampling.py",
    "src/charlm/report/page.py",
    "src/charlm/config/params.py",
    "src/charlm/tracking/client.py",
    "src/charlm/serving/playground.py",
    "stages/train.py",
)


def stages_that_would_run() -> list[str]:
    """Return the names of the stages that `dvc repro` would run."""
    done = subprocess.run(
        ["dvc", "repro", "--dry"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return re.findall(r"Running stage '([^']+)'", done.stdout)


def main() -> None:
    """Print a line for each file."""
    if waiting := stages_that_would_run():
        raise SystemExit(f"run `make repro` first: {', '.join(waiting[:5])} would run already")
    for name in FILES:
        path = PROJECT / name
        content = path.read_bytes()
        try:
            path.write_bytes(content + b"# edited\n")
            stages = stages_that_would_run()
        finally:
            path.write_bytes(content)
        kinds = Counter(stage.split("@")[0] for stage in stages)
        if len(stages) <= 6:
            listed = ", ".join(stages) or "nothing"
        else:
            listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        print(f"{name:36} {listed}", flush=True)


if __name__ == "__main__":
    main()
