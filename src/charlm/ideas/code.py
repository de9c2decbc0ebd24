"""Digests of the code that comparisons rest on: DVC's pipeline of them lies in another folder."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
STAGE = PACKAGE.parent.parent / "stages/idea.py"
IDEAS = PACKAGE / "ideas"

SIDES = ("data", "ngrams", "training")
FILES = ("config/training.py", "evaluation/loss.py", "models/base.py", "saved_model.py")
"""Packages and files that decide what a side becomes, beside its architecture."""


def digests(models: Iterable[str]) -> dict[str, Any]:
    """Return what changes with the code.

    Args:
        models: architectures of the sides.

    Returns:
        of what all `sides` share, of each architecture in `models`, and of what `combinations`
        (ensembles and dynamic evaluation) add.
    """
    own = [STAGE, IDEAS / "kinds.py", IDEAS / "side.py"]
    shared = [file for package in SIDES for file in _sources(package)]
    shared += [PACKAGE / file for file in FILES]
    return {
        "sides": _digest([*own, *shared]),
        "models": {name: _digest([PACKAGE / "models" / f"{name}.py"]) for name in sorted(models)},
        "combinations": _digest([*own, IDEAS / "combination.py", *shared, *_sources("evaluation")]),
    }


def _sources(package: str) -> list[Path]:
    return sorted((PACKAGE / package).glob("*.py"))


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
