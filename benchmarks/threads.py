"""What a second thread buys a training: `python -m benchmarks.threads` writes threads.json.

Each model takes the same few steps at scale quick with one thread and with two, in turns, and with
one thread beside another process that does the same: what a core is worth to a neighbour. The
shortest of three times counts. Nothing else should run.
"""

import itertools
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from benchmarks.common import at_scale, build, load
from benchmarks.machine import machine
from charlm.cli import script
from charlm.config import params
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.training.trainer import Trainer

OUTPUT = Path(stages.__file__).parent.parent / "benchmarks/threads.json"
SECONDS, TURNS = 2.0, 3


class Steps:
    """A training of which as many steps can be timed as are wanted."""

    def __init__(self, run: params.Run) -> None:
        device = start_torch()
        ids = load(device)
        train_N = ids["train"][:200_000]
        model, _ = build(run, device)
        features_NKV = model.prepare(train_N)
        self.trainer = Trainer(
            model, train_N, ids["validation"], run.training, run.seed, features_NKV=features_NKV
        )
        model.train()

    def time(self, count: int, threads: int) -> float:
        """Return the seconds of some steps."""
        torch.set_num_threads(threads)
        some = list(itertools.islice(self.trainer.batches, count))
        started = time.perf_counter()
        self.trainer.take_steps(some, [1e-4] * count, None)
        return time.perf_counter() - started


def beside(name: str, count: int, gate: Any, answers: Any) -> None:
    """Time steps in a process of its own, together with another."""
    steps = Steps(at_scale("quick").run(name))
    steps.time(3, 1)
    gate.wait()
    answers.put(min(steps.time(count, 1) for _ in range(TURNS)))


def measure(run: params.Run) -> dict[str, float]:
    """Return milliseconds a step: one thread, two threads, one thread beside another process."""
    steps = Steps(run)
    steps.time(3, 1)
    count = max(3, int(SECONDS / (steps.time(3, 1) / 3)))
    turns = [(steps.time(count, 1), steps.time(count, 2)) for _ in range(TURNS)]
    one, two = (min(column) for column in zip(*turns, strict=True))
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=beside, args=(run.name, count, gate, answers)) for _ in range(2)]
    for process in both:
        process.start()
    shared = max(answers.get() for _ in both)
    for process in both:
        process.join()
    return {
        "one_thread_ms": round(1000 * one / count, 3),
        "two_threads_ms": round(1000 * two / count, 3),
        "one_thread_beside_another_ms": round(1000 * shared / count, 3),
        "two_threads_buy": round(one / two, 2),
        "two_processes_buy": round(2 * one / shared, 2),
    }


@script(__doc__)
def main() -> None:
    """Measure each model that is trained by steps."""
    settings = at_scale("quick")
    runs = [run for name, run in settings.runs.items() if name == run.entry and run.training.steps]
    found = {}
    for run in runs:
        found[run.name] = measure(run)
        print(run.name, found[run.name], flush=True)
    record = {"command": "python -m benchmarks.threads", "machine": machine(start_torch())}
    write_json(OUTPUT, {**record, "models": found})


if __name__ == "__main__":
    main()
