"""All that is measured on a GPU, in calls of a few minutes: `make gpu`.

    python -m benchmarks.on_gpu [--minutes N]

It runs the parts below one after the other, those that are not recorded yet. Each writes its record
as soon as it is known. When the minutes are over, the part that runs is asked to stop. The next
call goes on with the trainings of `lowest` and `published` where they stopped, and begins the other
parts, and the scoring of a seed, anew: those take a few minutes each.

- `race`: seconds to nanoGPT's loss, windowed at 256;
- `gpu`: characters per second and share of the device's peak, for every entry;
- `kills`: a training that is killed three times ends in the same bytes;
- `lowest`: the losses of scale full, three seeds: one model, the ensemble, dynamic evaluation;
- `published`: the documents' whole trainings.
"""

import subprocess
import sys
import time
from collections.abc import Iterator

import click
import torch

from benchmarks import gpu, kills, lowest, published, race
from benchmarks.common import ENCODED, ON_GPU, RECORDS, ROOT
from charlm.cli import one_line_errors
from charlm.data import encoding
from charlm.files import read_json
from charlm.models.base import start_torch
from charlm.training import checkpoint

STOP_S = 30
"""Seconds that a part has to stop, of those that were asked for."""


def missing(device: torch.device) -> Iterator[list[str]]:
    """Yield the words of each part that is not recorded: a module of benchmarks and its arguments.

    Args:
        device: that figures are of.
    """
    if not (RECORDS / race.OUTPUT).is_file():
        yield ["race"]
    if gpu.missing(device):
        yield ["gpu"]
    if not kills.OUTPUT.is_file():
        yield ["kills"]
    losses = RECORDS / "lowest_gpu.json"
    known = read_json(losses)["results"] if losses.is_file() else {}
    for seed in lowest.SEEDS:
        if f"full, seed {seed}" not in known:
            yield ["lowest", "full", str(seed), "--keep", f"{checkpoint.FOLDER}/lowest"]
    for name in published.RUNS:
        if name.startswith("published_") and name not in published.finished():
            yield ["published", name]


@click.command()
@click.option("--minutes", default=9.5, type=click.FloatRange(min=1), help="Of this call.")
@one_line_errors
def main(minutes: float) -> None:
    """Measure what is missing until the minutes are over."""
    if not ON_GPU:
        sys.exit("make gpu needs a CUDA device; none was found")
    encoding.load_splits(ENCODED)  # says what is missing before anything runs
    end, device, failed = time.monotonic() + 60 * minutes - STOP_S, start_torch(), False
    for part in missing(device):
        left = end - time.monotonic()
        if left <= 0:
            break
        command = [sys.executable, "-m", f"benchmarks.{part[0]}", *part[1:]]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            if process.wait(left):
                click.echo(f"{' '.join(part)} failed: its message stands above", err=True)
                failed = True
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()  # what it scores or measures begins anew
                process.wait()
    todo = [" ".join(part) for part in missing(device)]
    click.echo(f"left: {', '.join(todo)}; call it again" if todo else "all is recorded")
    sys.exit(failed)


if __name__ == "__main__":
    main()
