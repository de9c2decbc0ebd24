"""What a stage says when DVC begins it: what it does, and why that takes as long as it takes."""

import re
from pathlib import Path

from charlm.config import params
from charlm.errors import UserError
from charlm.files import read_json

TRAINS = ("train", "refine", "repeat", "reproduce")
"""The stages whose time is a budget of params.yaml."""


def announcement(stage: str, root: Path) -> str:
    """Return one line about a stage, or nothing if the files do not tell.

    What is wrong with them is left to the stage itself, which says it better.

    Args:
        stage: as DVC names it: train@lstm.
        root: the project's root.
    """
    kind, _, name = stage.partition("@")
    try:
        pipeline = (root / "dvc.yaml").read_text(encoding="utf-8")
        described = re.search(
            rf"^  {re.escape(kind)}:\n(?:    .*\n)*?\s+desc: (.+)$", pipeline, re.MULTILINE
        )
        if described is None:
            return ""
        return described[1] + (f"; {_budget(name, root)}" if kind in TRAINS else "")
    except (OSError, ValueError, KeyError, UserError):
        return ""


def _budget(name: str, root: Path) -> str:
    """Return how much a training reads, and how long that took where it was recorded."""
    settings = params.load(root / "params.yaml")
    training = settings.model(name).training
    steps = f"{training.steps:,} steps" if training.steps else f"{training.epochs:,} epochs"
    read = f"{training.batch:,} x {training.block:,} characters" if training.batch else "all pairs"
    recorded = read_json(root / "benchmarks/training_time.json")
    said = f"{steps} of {read}"
    if recorded["scale"] != settings.scale or name not in recorded["seconds"]:
        return said
    # Recorded at the committed budgets: a guide, even where they were changed.
    machine = recorded["machine"].split(", Linux")[0]
    return f"{said} (as committed {recorded['seconds'][name]:.0f} s, {machine})"
