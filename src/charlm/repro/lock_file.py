"""dvc.lock, of which only the entries that changed are parsed and written, and atomically.

DVC parses the whole file twice for each stage and writes it once, comments and all. Writing 5,000
lines takes it 0.8 s (benchmarks/overheads.json), and a process that is killed meanwhile leaves half
of them. Here the lines of an entry are replaced in the text. The bytes are DVC's.
"""

import copy
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, parse_yaml
from dvc.utils.serialize import modify_yaml as modify_whole

from charlm.files import write_text

HEAD = "schema: '2.0'\nstages:\n"

ENTRY = re.compile(r"  [^ \n].*\n(?:    .*\n)*")

LOCK = re.compile(f"{HEAD}(?:{ENTRY.pattern})+")
"""A file that has stages and nothing else."""

Entries = dict[str, Any]


def parse(text: str, path: str, typ: str = "safe") -> Any:
    """Return the content of a YAML file; as DVC's `parse_yaml`."""
    entries = _entries(text) if typ == "safe" and Path(path).name == "dvc.lock" else None
    if entries is None:
        return parse_yaml(text, path, typ)
    return {"schema": "2.0", "stages": copy.deepcopy(entries)}


@contextmanager
def modify(path: str | os.PathLike[str], fs: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a file, and write what was changed in it; as DVC's `modify_yaml`."""
    file = Path(path)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    before = _entries(text) if file.name == "dvc.lock" else None
    if before is None:
        with modify_whole(path, fs) as content:
            yield content
        return
    content = parse(text, str(path))
    yield content
    for name, entry in content["stages"].items():
        if before.get(name) != entry:
            text = replaced(text, name, entry)
    write_text(file, text)


def _entries(text: str) -> Entries | None:
    """Return the entry of each stage; None of a file that is not as DVC writes it."""
    if not LOCK.fullmatch(text):
        return None
    try:
        parsed = [_parsed(lines) for lines in ENTRY.findall(text, len(HEAD))]
    except YAMLFileCorruptedError:
        return None
    entries = {name: entry for one in parsed for name, entry in one.items()}
    return entries if len(entries) == len(parsed) else None


@functools.lru_cache(maxsize=1000)
def _parsed(lines: str) -> Entries:
    entry: Entries = parse_yaml(lines, "dvc.lock")
    return entry


def replaced(text: str, name: str, entry: Any) -> str:
    """Return the text of dvc.lock with another entry of a stage, at its place or at the end."""
    lines = dumps_yaml({"stages": {name: entry}}).splitlines(keepends=True)[1:]
    old = text.splitlines(keepends=True)
    first = next((place for place, line in enumerate(old) if line == lines[0]), len(old))
    last = first + 1
    while last < len(old) and old[last].startswith("    "):
        last += 1
    return "".join([*old[:first], *lines, *old[last:]])
