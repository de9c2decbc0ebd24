"""The zoo: one architecture a file, found by the file's name.

A file NAME.py holds two classes:

- `Architecture`, a `charlm.config.schema.Schema`: the sizes that params.yaml gives;
- `Model`, a `charlm.models.base.LanguageModel` built from them. What it derives from says how it
  comes by its numbers, and in which section of params.yaml its entries are.
"""

import ast
import functools
import importlib
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from charlm.config import schema
from charlm.errors import UserError

if TYPE_CHECKING:
    from charlm.models.base import LanguageModel

FOLDER = Path(__file__).parent
SECTIONS = {
    "ResidualModel": "residuals",
    "CountingModel": "counted",
    "MixedModel": "mixtures",
}
"""Sections of params.yaml by what a `Model` derives from; all others are in `models`."""


def names() -> list[str]:
    """Return the names of all architectures, sorted."""
    return sorted(
        path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "base")
    )


def architecture(name: str) -> type[schema.Schema]:
    """Return the `Architecture` schema of a model without importing its file.

    Importing the file would import torch (2 s), and a misspelled key should be answered at once,
    so only the class `Architecture` of the file is executed.

    Raises:
        UserError: there is no such model.
    """
    tree = _parsed(name)
    tree.body = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Architecture"
    ]
    # The class may use the words of charlm.config.schema, pydantic and typing, as its file does.
    namespace: dict[str, Any] = {**vars(typing), **vars(pydantic), **vars(schema)}
    namespace["__name__"] = f"{__name__}.{name}"
    exec(compile(tree, str(FOLDER / f"{name}.py"), "exec"), namespace)
    described: type[schema.Schema] = namespace["Architecture"]
    return described


@functools.cache
def section(name: str) -> str:
    """Return the section of params.yaml that a model's entries are in, without importing its file.

    Raises:
        UserError: there is no such model.
    """
    bases = {
        base.id
        for node in _parsed(name).body
        if isinstance(node, ast.ClassDef) and node.name == "Model"
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    return next((SECTIONS[base] for base in bases if base in SECTIONS), "models")


def build(name: str, vocabulary_size: int, block: int, settings: dict[str, Any]) -> "LanguageModel":
    """Build a model with fresh weights from torch's global random state.

    Args:
        name: the architecture, which is its file's name.
        vocabulary_size: number of symbols, V.
        block: length of the windows that it is trained on, in characters.
        settings: the keys of the file's `Architecture`.

    Raises:
        UserError: there is no such model.
    """
    _check(name)
    module = importlib.import_module(f"{__name__}.{name}")
    model: LanguageModel = module.Model(vocabulary_size, block, module.Architecture(**settings))
    return model


def _parsed(name: str) -> ast.Module:
    _check(name)
    path = FOLDER / f"{name}.py"
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _check(name: str) -> None:
    if name not in names():
        raise UserError(f"unknown model '{name}' (allowed: {', '.join(names())})")
