"""dvc.lock, of which only the entries that changed are written, and atomically.

DVC parses and writes the whole file for every stage, comments and all: 0.8 s for 5,000 lines
(benchmarks/overheads.json), and a process that is killed meanwhile leaves half of it. Here the
lines of an entry are replaced in the text. The bytes are DVC's.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.utils.serialize import dumps_yaml, load_yaml
from dvc.utils.serialize import modify_yaml as modify_whole

from charlm.files import write_text


@contextmanager
def modify(path: str | os.PathLike[str], fs: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a file, and write what was changed in it; as DVC's `modify_yaml`."""
    file = Path(path)
    text = file.read_text(encoding="utf-8") if file.name == "dvc.lock" and file.exists() else ""
    if not text.startswith("schema: '2.0'\nstages:\n"):
        with modify_whole(path, fs) as content:
            yield content
        return
    content = load_yaml(path, fs=fs)
    before = copy.deepcopy(content["stages"])
    yield content
    for name, entry in content["stages"].items():
        if before.get(name) != entry:
            text = replaced(text, name, entry)
    write_text(file, text)


def replaced(text: str, name: str, entry: Any) -> str:
    """Return the text of dvc.lock with another entry of a stage, at its place or at the end."""
    lines = dumps_yaml({"stages": {name: entry}}).splitlines(keepends=True)[1:]
    old = text.splitlines(keepends=True)
    first = next((place for place, line in enumerate(old) if line == lines[0]), len(old))
    last = first + 1
    while last < len(old) and old[last].startswith("    "):
        last += 1
    return "".join([*old[:first], *lines, *old[last:]])
