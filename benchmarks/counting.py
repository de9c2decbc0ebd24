"""One task, several libraries: `python -m benchmarks.counting`.

How many 5-grams of 20 million characters occur once, twice, ...: by this project's streaming count,
numpy alone, pyarrow, and numba and polars where they are installed (`pip install numba polars`;
charlm does not need them). Each way runs in a process of its own, on one thread, and must give the
same numbers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import stages
from benchmarks.machine import machine
from charlm.cli import script
from charlm.files import write_json
from charlm.models.base import start_torch

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/counting.json"
CHARACTERS = 20_000_000

COMMON = """
import json, resource, sys, time
import numpy as np

def text(name):
    random = np.random.default_rng(0)
    if name == "uniform":
        return random.integers(0, 65, {characters}, dtype=np.uint8)
    # Each symbol depends on the one before: few of the possible 5-grams occur, as in a language.
    share = random.random((65, 65)) ** 12
    rows = (share / share.sum(axis=1, keepdims=True)).cumsum(axis=1)
    streams = {characters} // 1000
    ids, state = np.empty((streams, 1000), dtype=np.uint8), np.zeros(streams, dtype=np.int64)
    for place in range(1000):
        state = np.minimum((rows[state] < random.random((streams, 1))).sum(axis=1), 64)
        ids[:, place] = state
    return ids.reshape(-1)

def codes(ids):
    found = ids[:len(ids) - 4].astype(np.uint32)
    for place in range(1, 5):
        found *= np.uint32(65)
        found += ids[place:len(ids) - 4 + place]
    return found

ids = text(sys.argv[1])
started = time.perf_counter()
"""

WAYS = {
    "charlm.entropy.counts_of_counts": """
from charlm.entropy import counts_of_counts
started = time.perf_counter()
values, how_many = counts_of_counts.streamed([ids], 65, 5)[-1].ngrams
""",
    "numpy": """
_, counts = np.unique(codes(ids), return_counts=True)
values, how_many = np.unique(counts, return_counts=True)
""",
    "pyarrow": """
import pyarrow as pa, pyarrow.compute as pc
pa.set_cpu_count(1)
started = time.perf_counter()
counts = pc.value_counts(pa.array(codes(ids))).field("counts")
values, how_many = np.unique(counts.to_numpy(), return_counts=True)
""",
    "polars": """
import polars as pl
started = time.perf_counter()
found = (
    pl.LazyFrame({{"code": codes(ids)}}).group_by("code").len()
    .group_by("len").agg(pl.len().alias("many")).sort("len").collect()
)
values, how_many = found["len"].to_numpy(), found["many"].to_numpy()
""",
    "numba": """
import numba

@numba.njit
def tally(ids, table):
    code = 0
    for place in range(len(ids)):
        code = code % 65**4 * 65 + ids[place]
        if place >= 4:
            table[code] += 1

@numba.njit
def tally_counts(table, counts):
    for count in table:
        if count:
            counts[count] += 1

tally(ids[:9], np.zeros(65**5, dtype=np.uint32))
tally_counts(np.zeros(1, dtype=np.uint32), np.zeros(1 << 24, dtype=np.int64))
started = time.perf_counter()
table = np.zeros(65**5, dtype=np.uint32)
tally(ids, table)
counts = np.zeros(1 << 24, dtype=np.int64)
tally_counts(table, counts)
values = np.flatnonzero(counts)
how_many = counts[values]
""",
}
REPORT = """
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak, np.asarray(values).tolist(), np.asarray(how_many).tolist()]))
"""


def run(way: str, text: str) -> list[Any] | None:
    """Return seconds, peak memory and counts of counts; None if the library is not installed."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"), "1")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    code = (COMMON + WAYS[way] + REPORT).replace("{{", "{").replace("}}", "}")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("{characters}", str(CHARACTERS)), text],
        env={**os.environ, **one, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr)
    found: list[Any] = json.loads(done.stdout)
    return found


@script(__doc__)
def main() -> None:
    """Time each way three times on each text and write the medians."""
    results: dict[str, dict[str, Any]] = {}
    for text in ("language", "uniform"):
        agreed: list[Any] = []
        for way in WAYS:
            rounds = [run(way, text) for _ in range(3)]
            found = [row for row in rounds if row is not None]
            if not found:
                print(f"{way}: not installed", flush=True)
                continue
            agreed.append(found[0][2:])
            if agreed[-1] != agreed[0]:
                sys.exit(f"{way} counts differently")
            seconds = sorted(row[0] for row in found)[1]
            results.setdefault(way, {})[text] = {
                "seconds": round(seconds, 2),
                "ns_per_char": round(seconds / CHARACTERS * 1e9, 1),
                "peak_gb": round(max(row[1] for row in found) * 1024 / 1e9, 2),
            }
            print(text, way, results[way][text], flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.counting",
            "machine": machine(start_torch()),
            "characters": CHARACTERS,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
