"""Peak memory of the stages: `python -m benchmarks.memory FOLDER`.

Each stage is a process of its own: at scale smoke on the corpus, and those that read the text on
1 GB of it. `own` is what a process keeps for itself, `resident` has the pages of mapped files
too, which the system takes back when it needs them; MLflow's process beside a training is not
counted. Looked at every 20 ms, on Linux.

FOLDER takes the text and what the stages make of it, 2 GB. Needs data/raw (`dvc repro download`).
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
from ruamel.yaml import YAML

import stages
from benchmarks.machine import machine
from charlm.cli import script
from charlm.files import write_json
from charlm.models.base import start_torch

ROOT = Path(stages.__file__).parent.parent
CORPUS, OUTPUT = ROOT / "data/raw/corpus.txt", ROOT / "benchmarks/memory.json"
ZOO = ("bigram", "lstm", "gpt", "kneser_ney", "ngram_lstm")
LARGE = 1_000_000_000
SMALL_STAGES = (
    "encode",
    "entropy",
    *(f"{stage} --model {name}" for stage in ("train", "evaluate") for name in ZOO),
    *(f"sample --model {name} --output results/{name}/sample.txt" for name in ZOO),
    "ensemble --model mixture",
    "dynamic --model lstm",
    "dynamic --model mixture",
    "report",
)
LARGE_STAGES = ("encode", "entropy", "train --model bigram", "evaluate --model bigram")


def prepare(folder: Path, zoo: tuple[str, ...], copies: int) -> None:
    """Make a folder in which stages can run: a small zoo, and the corpus so many times."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("data/raw", "benchmarks"):
        (folder / name).mkdir(parents=True)
    for name in ("dvc.yaml", "benchmarks/published.json", "benchmarks/training_time.json"):
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    content["scale"] = "smoke"
    content["models"] = {name: content["models"][name] for name in zoo}
    content["runs"] = {name: content["runs"][name] for name in zoo}
    if len(zoo) == 1:
        content |= {"ensembles": {}, "dynamic": {}}
    yaml.dump(content, folder / "params.yaml")
    text = CORPUS.read_bytes()
    with (folder / "data/raw/corpus.txt").open("wb") as file:
        for _ in range(copies):
            file.write(text)


def peaks(folder: Path, stage: str) -> dict[str, int]:
    """Run a stage in a folder; return the most megabytes that its process held.

    Raises:
        SystemExit: the stage failed.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    process = subprocess.Popen(
        [sys.executable, "-m", *f"stages.{stage}".split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )
    found = {"own": 0, "resident": 0}
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        held = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status.read_text(), re.MULTILINE))
        for name, key in (("own", "RssAnon"), ("resident", "VmRSS")):
            found[name] = max(found[name], int(held.get(key, 0)) * 1024 // 10**6)
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"stages.{stage} failed")
    return found


@script(__doc__)
@click.argument("folder", type=click.Path(path_type=Path, resolve_path=True))
def main(folder: Path) -> None:
    """Measure every stage on both texts."""
    copies = LARGE // CORPUS.stat().st_size
    record: dict[str, object] = {
        "command": "python -m benchmarks.memory FOLDER",
        "unit": "MB",
        "machine": machine(start_torch()),
    }
    for title, zoo, times, which in (
        ("smoke", ZOO, 1, SMALL_STAGES),
        (f"{copies} times the corpus", ("bigram",), copies, LARGE_STAGES),
    ):
        prepare(folder, zoo, times)
        results = {}
        for stage in which:
            name = stage.split(" --output")[0].replace(" --model", "")
            results[name] = peaks(folder, stage)
            print(title, name, results[name], flush=True)
        record[title] = results
    shutil.rmtree(folder)
    write_json(OUTPUT, record)


if __name__ == "__main__":
    main()
