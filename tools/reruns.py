"""What runs again when a file is edited, on the real graph: `python -m tools.reruns`.

A comment is added to a file of each kind, `dvc repro --dry` says what would run at once, and the
file is put back. What depends on those stages runs only if they write other bytes than before. A
training does so after an edit of its architecture, because a saved model names the digest of that
code. It needs a finished `make repro`.
"""

import re
import signal
import subprocess
from collections import Counter
from typing import Any

import networkx as nx
from dvc.repo import Repo

from charlm.cli import script
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
    "src/charlm/playground/command.py",
    "stages/train.py",
)


def stages_that_would_run() -> list[str]:
    """Return the names of the stages that `dvc repro` would run."""
    done = subprocess.run(
        ["dvc", "repro", "--dry"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return re.findall(r"Running stage '([^']+)'", done.stdout)


def followers(graph: Any, stages: list[str]) -> list[str]:
    """Return the stages that depend on some stages, directly or not."""
    by_name = {stage.addressing: stage for stage in graph}
    found = {s.addressing for name in stages for s in nx.ancestors(graph, by_name[name])}
    return sorted(found - set(stages))


def in_words(stages: list[str]) -> str:
    """Return a list of stages, or of their kinds if they are many."""
    if len(stages) <= 6:
        return ", ".join(stages) or "nothing"
    kinds = Counter(stage.split("@")[0] for stage in stages)
    return ", ".join(f"{kind} ({count})" for kind, count in kinds.items())


@script(__doc__)
def main() -> None:
    """Print what runs at once, and what may follow, for each file."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # files are put back
    graph = Repo(str(PROJECT)).index.graph
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
        later = followers(graph, stages)
        print(f"{name}\n    at once: {in_words(stages)}\n    then: {in_words(later)}", flush=True)


if __name__ == "__main__":
    main()
