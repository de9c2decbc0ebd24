"""A copy of the project to run in: `python -m tests.workspace FOLDER` runs it at scale smoke."""

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from charlm.config import params
from charlm.data import encoding

PROJECT = Path(__file__).resolve().parent.parent
TINY = {
    "scale": "smoke",
    "dynamic__lstm__every": 2000,
    "dynamic__mixture__every": 2000,
    "dynamic__mixture__recount": 100_000,
}
"""What makes a run of the whole graph short."""


def at_scale(scale: str) -> params.Params:
    """Return the committed params.yaml with another scale."""
    content = YAML(typ="safe").load(PROJECT / "params.yaml")
    return params.parse({**content, "scale": scale}, "params.yaml")


def encode_text(
    text: str, folder: Path, train: float = 0.9, validation: float = 0.05
) -> dict[str, encoding.Ids]:
    """Encode a text into a folder and return the ids of each split."""
    source = folder / "text"
    source.write_bytes(text.encode())
    found = encoding.scan(source)
    split = params.Split(train=train, validation=validation, test=1 - train - validation)
    lengths = encoding.lengths(found.characters, split)
    encoding.encode(source, found.vocabulary, lengths, folder)
    return {name: encoding.load_split(folder, name) for name in encoding.SPLITS}


def copy_project(destination: Path, zoo: Iterable[str] = (), **changes: Any) -> Path:
    """Copy what git tracks or would track, with some keys of params.yaml changed.

    `zoo` is as in `change`. Sources of the corpus that are relative to the project keep meaning the
    same files.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target)
    (destination / "dvc.lock").unlink(missing_ok=True)
    change(destination, zoo, **{"corpus__sources": absolute_sources(), **changes})
    return destination


def absolute_sources() -> list[str]:
    """Return the corpus's sources, files by their whole paths."""
    sources = at_scale("smoke").corpus.sources
    return [source if "://" in source else str(PROJECT / source) for source in sources]


def change(folder: Path, zoo: Iterable[str] = (), **changes: Any) -> None:
    """Set keys of a copy's params.yaml; models__lstm__smoke__steps=3 is models.lstm.smoke.steps.

    A zoo leaves only these entries and ensembles, the runs of these entries, and dynamic evaluation
    of what is left. Keys of entries that the zoo leaves out are passed over.
    """
    path = folder / "params.yaml"
    yaml = YAML()
    content = yaml.load(path)
    zoo = set(zoo)
    if zoo:
        for name in set(content["models"]) - zoo:
            del content["models"][name]
        for name, run in list(content["runs"].items()):
            if run["entry"] not in content["models"]:
                del content["runs"][name]
        for section in ("ensembles", "dynamic"):
            for name in set(content[section]) - zoo:
                del content[section][name]
    for name, value in changes.items():
        *parents, last = name.split("__")
        if len(parents) == 2 and parents[1] not in content[parents[0]]:
            continue
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    with path.open("w") as file:
        yaml.dump(content, file)


def without(folder: Path, *keys: str) -> None:
    """Leave keys of a copy's params.yaml out, as runs.bigram_2 is one."""
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for key in keys:
        section, name = key.split(".")
        del content[section][name]
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(content, file)


STEPS = {"perceptron_full_batch": 20, "rnn": 100, "shake_lstm": 100, "ngram_lstm": 100}
"""Optimiser steps of a trainable copy where they are not 400, so that each takes a few seconds."""


def trainable(folder: Path, zoo: list[str], corpus: Path, **changes: Any) -> Path:
    """Copy the project to where its models can be trained, with a checkpoint at every moment."""
    steps = {f"models__{name}__smoke__steps": STEPS.get(name, 400) for name in zoo}
    always = {"scale": "smoke", "checkpoint_every": 0.001, "corpus__sources": [str(corpus)]}
    copy_project(folder, zoo, **{**always, **steps, **changes})
    for stage in ("download", "encode"):
        done = invoke(folder, f"stages.{stage}")
        assert done.exit_code == 0, done.output
    return folder


def environment() -> dict[str, str]:
    """Return the variables that a user would have, with this environment's Python first."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy, as its user would."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def invoke(folder: Path, module: str, *arguments: str) -> Result:
    """Run a command in a copy, in this process: starting Python and torch takes seconds."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(importlib.import_module(module).main, arguments)


def committed(folder: Path) -> None:
    """Make a copy a repository, run its whole graph and commit what came of it."""
    run(folder, "git", "init", "-q")
    for key, value in (("user.name", "A Newcomer"), ("user.email", "new@example.org")):
        run(folder, "git", "config", key, value)
    run(folder, "charlm", "repro")
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "-qm", "state")


def stages_run(folder: Path, *stages: str, program: str = "dvc") -> list[str]:
    """Run `dvc repro` or `charlm repro` in a copy and return the stages that ran, sorted.

    For three stages or more, `charlm` takes less time.
    """
    # The installed `charlm` is of the project, and knows no model that the copy alone has.
    own = "PYTHONPATH=" + str(folder / "src")
    done = run(folder, "env", own, program, "repro", *stages)
    if program == "dvc":
        return sorted(re.findall(r"Running stage '([^']+)'", done.stdout))
    ended = re.findall(r"^(\S+) \(\d+ s\)$", done.stderr, re.MULTILINE)
    idle = re.findall(r"^Stage '([^']+)' (?:is cached|didn't change)", done.stderr, re.MULTILINE)
    return sorted(set(ended) - set(idle))


def metrics(folder: Path, name: str) -> dict[str, Any]:
    """Return a copy's evaluation of a model."""
    content: dict[str, Any] = json.loads((folder / "results" / name / "metrics.json").read_text())
    return content


def main(folder: Path) -> None:
    """Run the whole graph from nothing, showing what it shows."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_project(folder, **TINY)  # type: ignore[arg-type]
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "charlm.repro"], cwd=folder)
    if done.returncode:
        sys.exit(done.returncode)
    status = run(folder, "dvc", "status").stdout
    assert "up to date" in status, status
    print(f"\nthe whole graph took {time.perf_counter() - started:.0f} s in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
