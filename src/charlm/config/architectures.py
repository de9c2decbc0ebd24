"""What architectures there are, and which sizes each one has.

An architecture is a file of `charlm/models`: its class `Architecture` lists the sizes.
"""

import ast
import functools
import typing
from pathlib import Path
from typing import Any

import pydantic

from charlm.config import schema
from charlm.errors import UserError

FOLDER = Path(__file__).parent.parent / "models"
NO_ARCHITECTURE = ("__init__", "base")
ENSEMBLE = "ensemble"
"""Made of trained models by the stage `ensemble`: no entry of `models` can have it."""


def names() -> list[str]:
    """Return the architectures that an entry of `models` can have, sorted."""
    stems = {path.stem for path in FOLDER.glob("*.py")}
    return sorted(stems - {*NO_ARCHITECTURE, ENSEMBLE})


@functools.cache
def sizes(name: str) -> type[schema.Schema]:
    """Return the class `Architecture` of a model's file.

    Importing the file would import torch: 1.3 s, four times as long as the whole check of
    params.yaml takes, in commands that compute nothing and at each press of the Tab key. So the
    class alone is executed, with the words of charlm.config.schema, pydantic and typing.

    Raises:
        UserError: there is no such architecture.
    """
    if name not in names():
        raise UserError(f"unknown model '{name}' (allowed: {', '.join(names())})")
    path = FOLDER / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    tree.body = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Architecture"
    ]
    namespace: dict[str, Any] = {**vars(typing), **vars(pydantic), **vars(schema)}
    namespace["__name__"] = f"charlm.models.{name}"
    exec(compile(tree, str(path), "exec"), namespace)
    described: type[schema.Schema] = namespace["Architecture"]
    return described
