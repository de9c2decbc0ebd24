"""Breaking things on purpose: `python -m tools.torture [KILLS]`, or `make torture`.

A stage is killed with SIGKILL at random moments, again and again, each time started anew; what it
ends in must be, byte for byte, what it ends in when nobody kills it, and nothing may ever lie there
half written.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import psutil

from charlm.cli import script
from tests.workspace import PROJECT, copy_project, environment, run, trainable

KINDS = (
    "perceptron_full_batch",
    "bigram",
    "averaging",
    "gpt",
    "rnn",
    "lstm",
    "shake_lstm",
    "ngram_lstm",
)
"""All batches, all kinds of state, with and without dropout, SGD, Adam and AdamW; with counts."""


def contents(folder: Path, outs: list[str]) -> dict[str, bytes]:
    """Return every file among the outputs of a stage."""
    found = {}
    for out in outs:
        path = folder / out
        for file in [path] if path.is_file() else sorted(path.glob("**/*")):
            if file.is_file() and file.name != ".gitignore":
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def remove(folder: Path, outs: list[str]) -> None:
    """Remove the outputs, as DVC does before it runs a stage."""
    for out in outs:
        shutil.rmtree(folder / out, ignore_errors=True)
        (folder / out).unlink(missing_ok=True)


def killed_again_and_again(
    folder: Path, stage: list[str], outs: list[str], kills: int, seed: int
) -> None:
    """Kill a stage so many times and compare its end with that of one left alone.

    Args:
        folder: a copy of the project.
        stage: arguments to Python.
        outs: what it writes.
        kills: how many have to meet a process that is running.
        seed: of the moments.

    Raises:
        AssertionError: they differ, something was half written, or a start after a kill failed.
    """
    command = [sys.executable, *stage]
    remove(folder, outs)
    started = time.monotonic()
    run(folder, *command)
    whole = time.monotonic() - started
    expected = contents(folder, outs)
    assert expected, outs
    chance = random.Random(seed)
    met = 0
    while met < kills:
        remove(folder, outs)
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            # From before the first import to after the last byte.
            time.sleep(chance.uniform(0, 1.1 * whole))
            met += process.poll() is None
            process.kill()
        for name, content in contents(folder, outs).items():
            assert name.endswith(".part") or content == expected[name], name
    remove(folder, outs)
    run(folder, *command)
    assert contents(folder, outs) == expected


def killed_under_dvc(folder: Path, name: str, kills: int, seed: int) -> None:
    """Kill `dvc repro` of a training, by turns its whole process group and DVC alone.

    DVC's death leaves the training an orphan, which its successor must not share a checkpoint with.

    Args:
        folder: a copy of the project that DVC runs.
        name: of the run.
        kills: how many have to meet a DVC that is running.
        seed: of the moments.

    Raises:
        AssertionError: as in `killed_again_and_again`.
    """
    outs = trained(name)[1]
    command = ["dvc", "repro", "--force", "--single-item", f"train@{name}"]
    started = time.monotonic()
    run(folder, *command)
    whole = time.monotonic() - started
    expected = contents(folder, outs)
    chance = random.Random(seed)
    met = 0
    while met < kills:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        ) as process:
            time.sleep(chance.uniform(0, 1.1 * whole))
            try:
                below = psutil.Process(process.pid).children(recursive=True)
            except psutil.Error:
                below = []
            running = process.poll() is None
            if met % 2 and running:
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        met += running
        # Whatever the successor meets, it ends well or says who is there.
        after = run(folder, *command, check=False)
        assert after.returncode == 0 or "is being trained by another process" in after.stderr
        psutil.wait_procs(below)
        for file, content in contents(folder, outs).items():
            assert file.endswith(".part") or content == expected[file], file
    run(folder, *command)
    assert contents(folder, outs) == expected


def trained(name: str) -> tuple[list[str], list[str]]:
    """Return a training's command, and what it writes besides what others write there."""
    files = [
        f"results/{name}/{file}" for file in ("curve.csv", "activations.json", "learning.json")
    ]
    return ["-m", "stages.train", "--model", name], [f"models/{name}", *files]


STAGES = {
    "download": ["data/raw/corpus.txt"],
    "encode": ["data/encoded"],
    "entropy": ["results/entropy.json", "results/entropy.csv"],
    "evaluate --model bigram": [
        "results/bigram/metrics.json",
        "results/bigram/log_probabilities.npy",
    ],
    "sample --model bigram --output results/bigram/sample.txt": ["results/bigram/sample.txt"],
    "train --model kneser_ney": [
        "models/kneser_ney",
        "results/kneser_ney/curve.csv",
        "results/kneser_ney/activations.json",
        "results/kneser_ney/learning.json",
    ],
    "report": [
        f"reports/{name}"
        for name in (
            "curves.json",
            "ladder.json",
            "leaderboard.json",
            "published.json",
            "report.html",
            "validation_bits_per_char.json",
        )
    ],
}
"""What each stage that takes no steps writes."""


@script(__doc__)
@click.argument("kills", default=56)
def main(kills: int) -> None:
    """Torture every kind of model and every stage, and say how often."""
    total = 0
    corpus = PROJECT / "data/raw/corpus.txt"
    with tempfile.TemporaryDirectory() as scratch:
        folder = trainable(Path(scratch) / "trained", list(KINDS), corpus)
        for place, name in enumerate(KINDS):
            share = kills * (place + 1) // len(KINDS) - kills * place // len(KINDS)
            killed_again_and_again(folder, *trained(name), share, place)
            total += share
            print(f"train {name}: killed {share} times, the same bytes", flush=True)
        folder = copy_project(
            Path(scratch) / "whole",
            ("bigram", "kneser_ney"),
            scale="smoke",
            checkpoint_every=0.001,
            corpus__sources=[str(corpus)],
        )
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
        run(folder, "dvc", "repro")
        share = max(2, kills // 4)
        killed_under_dvc(folder, "bigram", share, 0)
        total += share
        print(f"dvc repro of a training: killed {share} times, the same bytes", flush=True)
        for place, (stage, outs) in enumerate(STAGES.items()):
            command = ["-m", *f"stages.{stage}".split()]
            share = max(1, kills * 20 // 56)
            killed_again_and_again(folder, command, outs, share, place)
            total += share
            print(f"{stage.split()[0]}: killed {share} times, the same bytes", flush=True)
    print(f"{total} kills, nothing lost")


if __name__ == "__main__":
    main()
