"""params.yaml, parsed once for as long as it stays the same.

DVC parses it and walks through all of it for each stage: with a hundred of them that is a third of
the time of a call that has nothing to do.
"""

import copy
import functools
import operator
from typing import Any

from dvc.dependency.param import read_param_file as read_by_dvc
from dvc.utils.serialize import parse_yaml

_parsed = functools.lru_cache(maxsize=2)(parse_yaml)


def read(
    fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **options: Any
) -> Any:
    """Return parameters by their keys; as DVC's `read_param_file`."""
    if not (key_paths and flatten and path.endswith(".yaml")):
        return read_by_dvc(fs, path, key_paths, flatten, **options)
    with fs.open(path, encoding="utf-8") as file:
        content = _parsed(file.read(), path)
    try:
        found = {
            key: functools.reduce(operator.getitem, key.split("."), content) for key in key_paths
        }
    except (LookupError, TypeError):  # it is missing, a pattern, or a place in a list
        return read_by_dvc(fs, path, key_paths, flatten, **options)
    return copy.deepcopy(found)
