"""The zoo: one architecture a file. May import ngrams and config.

A file NAME.py holds two classes: `Architecture`, a `charlm.config.schema.Schema` of the sizes that
params.yaml gives, and `Model`, a `charlm.models.base.LanguageModel` that is built from them.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.errors import UserError

if TYPE_CHECKING:
    from charlm.models.base import LanguageModel

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all architectures, sorted."""
    stems = {path.stem for path in FOLDER.glob("*.py")}
    return sorted(stems - {"__init__", "base"})


def build(name: str, vocabulary_size: int, block: int, sizes: dict[str, Any]) -> "LanguageModel":
    """Build a model with fresh weights from torch's global random state.

    Args:
        name: the architecture, which is its file's name.
        vocabulary_size: number of symbols, V.
        block: length of the windows that it is trained on, in characters.
        sizes: the keys of the file's `Architecture`.

    Raises:
        UserError: there is no such architecture.
    """
    if name not in names():
        raise UserError(f"unknown model '{name}' (allowed: {', '.join(names())})")
    module = importlib.import_module(f"{__name__}.{name}")
    model: LanguageModel = module.Model(vocabulary_size, block, module.Architecture(**sizes))
    return model
