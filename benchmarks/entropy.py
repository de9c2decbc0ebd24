"""Entropies and Kneser-Ney against the plain way, side by side in one run.

    python -m benchmarks.entropy        writes benchmarks/entropy.json

The plain way counts slices of a string in dictionaries, as a notebook does. Both ways must give the
same numbers, or the benchmark stops. It needs data/encoded (`dvc repro encode`).
"""

import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One core, so that both ways have the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm.cli import script
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.entropy import counts_of_counts, estimators
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.ngrams import kneser_ney

ROOT = Path(stages.__file__).parent.parent
ENCODED, OUTPUT = ROOT / "data/encoded", ROOT / "benchmarks/entropy.json"
ORDERS = [1, 2, 3, 4, 5]
ORDER, ROUNDS = 7, 5


def plain_entropies(text: str) -> list[float]:
    """Return H_n / n for n = 1 to 4, then H(X | k before) for k = 1 to 4, in bits."""
    blocks, conditionals = [], []
    for n in ORDERS[:-1]:
        counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        total = sum(counts.values())
        blocks.append(-sum(c / total * math.log2(c / total) for c in counts.values()) / n)
    for k in ORDERS[:-1]:
        followers: dict[str, list[str]] = defaultdict(list)
        for i in range(len(text) - k):
            followers[text[i : i + k]].append(text[i + k])
        total, bits = len(text) - k, 0.0
        for symbols in followers.values():
            for c in Counter(symbols).values():
                bits -= c / total * math.log2(c / len(symbols))
        conditionals.append(bits)
    return blocks + conditionals


def fast_entropies(ids: encoding.Ids, size: int) -> list[float]:
    """Return the same from charlm.entropy."""
    counted = counts_of_counts.in_memory(ids, size, ORDERS)
    rows = [row.estimates["plug_in"] for row in estimators.statistics(counted, 1.0)]
    return [row.bits_per_char for row in rows[:-1]] + [
        row.conditional_bits_per_char for row in rows[1:]
    ]


class PlainKneserNey:
    """Modified Kneser-Ney in dictionaries of strings, discounts by the same rule."""

    def __init__(self, text: str, order: int, size: int) -> None:
        self.order, self.size = order, size
        counts = [Counter(text[i : i + order] for i in range(len(text) - order + 1))]
        for n in range(order - 1, 0, -1):
            longer = {text[i : i + n + 1] for i in range(len(text) - n)}
            counts.insert(0, Counter(gram[1:] for gram in longer))
        self.levels = []
        for level in counts:
            of = Counter(level.values())
            y = of[1] / (of[1] + 2 * of[2]) if of[1] else 0.0
            taken = [0.0]
            for k in (1, 2, 3):
                found = k - (k + 1) * y * of[k + 1] / of[k] if of[k] and of[1] else -1.0
                taken.append(found if 0 < found <= k else kneser_ney.FALLBACK[k - 1])
            total: dict[str, int] = defaultdict(int)
            rest: dict[str, float] = defaultdict(float)
            for gram, c in level.items():
                total[gram[:-1]] += c
                rest[gram[:-1]] += taken[min(c, 3)]
            self.levels.append((level, taken, total, rest))

    def nats(self, text: str, known: int) -> float:
        """Return the mean nats of text[known:]."""
        total_nats = 0.0
        for i in range(known, len(text)):
            p = 1 / self.size
            for n, (level, taken, total, rest) in enumerate(self.levels, start=1):
                context = text[i - n + 1 : i]
                if context in total:
                    c = level.get(context + text[i], 0)
                    p = (c - taken[min(c, 3)] + rest[context] * p) / total[context]
            total_nats -= math.log(p)
        return total_nats / (len(text) - known)


def seconds(action: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the median time of an action, and what it gives."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def start_up(code: str) -> float:
    """Return the time in which a fresh Python has run some code."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True), 3)[0]


def agree(ours: list[float], theirs: list[float]) -> None:
    """Stop if two ways to the same numbers differ."""
    if not np.allclose(ours, theirs, rtol=0, atol=1e-6):
        sys.exit(f"the two ways differ: {ours} and {theirs}")


@script(__doc__)
def main() -> None:
    """Time each task both ways and write seconds and ratios."""
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    train, validation, test = encoding.load_splits(ENCODED).values()
    whole, held = np.concatenate([train, validation, test]), len(validation) + len(test)
    text, size = vocabulary.decode(whole), len(vocabulary)
    first = len(train)
    results = {}

    def compare(task: str, fast: Callable[[], Any], plain: Callable[[], Any]) -> tuple[Any, Any]:
        ours, fast_result = seconds(fast, ROUNDS)
        theirs, plain_result = seconds(plain, 1)
        results[task] = {
            "seconds": round(ours, 4),
            "plain_seconds": round(theirs, 2),
            "ratio": round(theirs / ours, 1),
        }
        print(task, results[task], flush=True)
        return fast_result, plain_result

    agree(
        *compare(
            "published entropies",
            lambda: fast_entropies(whole, size),
            lambda: plain_entropies(text),
        )
    )
    imports = start_up(
        "import stages; from charlm.data import encoding; from charlm.entropy import estimators"
    )
    nothing = start_up("pass")
    row = results["published entropies"]
    results["published entropies, start-up included"] = {
        "seconds": round(row["seconds"] + imports, 4),
        "plain_seconds": round(row["plain_seconds"] + nothing, 2),
        "ratio": round((row["plain_seconds"] + nothing) / (row["seconds"] + imports), 1),
    }
    print(*list(results.items())[-1], flush=True)

    models = compare(
        f"Kneser-Ney order {ORDER}, fit",
        lambda: kneser_ney.counts(train, size, ORDER).model(ORDER),
        lambda: PlainKneserNey(text[:first], ORDER, size),
    )
    fast, plain = models
    nats = compare(
        f"Kneser-Ney order {ORDER}, score {held:,} characters",
        lambda: float(fast.nats(whole[first - ORDER :], ORDER).mean()),
        lambda: plain.nats(text[first - ORDER :], ORDER),
    )
    agree([nats[0]], [nats[1]])

    def distributions() -> None:
        places = kneser_ney.places(fast.levels, size, whole[first - 1 :])
        for start in range(0, held, 8192):
            fast.probabilities([place[start : start + 8192] for place in places])

    full, _ = seconds(distributions, 3)
    results[f"Kneser-Ney order {ORDER}, full distributions of {held:,} characters"] = {
        "seconds": round(full, 4)
    }
    print(*list(results.items())[-1], flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.entropy",
            "machine": machine(start_torch()),
            "holdout_nats_per_char": nats[0],
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
