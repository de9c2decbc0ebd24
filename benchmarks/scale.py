"""Encode and entropy on texts of 1 MB to 1 GB: `python -m benchmarks.scale FOLDER`.

Three texts, each from a seed, none of which fits the way in which small texts are counted:

- sampled: drawn from the 7-gram Kneser-Ney model of the corpus, as natural as counts can be;
- uniform: 65 equally likely symbols, hundreds of millions of distinct 5-grams in 1 GB;
- unicode: 5,000 symbols of three bytes each, the r-th with a probability like 1 / (r + 2.7).

FOLDER takes the texts and what the stages make of them, 3 GB at most. Names of texts and sizes in
MB may follow; all are measured otherwise. Needs data/encoded (`dvc repro encode`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ruamel.yaml import YAML

import stages
from benchmarks.machine import machine
from charlm.cli import script
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.files import read_json, write_json
from charlm.models.base import start_torch
from charlm.ngrams import kneser_ney
from charlm.ngrams.counting import Ints, grams

ROOT = Path(stages.__file__).parent.parent
ENCODED, OUTPUT = ROOT / "data/encoded", ROOT / "benchmarks/scale.json"
PICTURE = ROOT / "docs/scale.png"
MEGABYTES = (1, 10, 100, 1000)
ORDER, STREAMS, SEGMENT = 7, 1 << 15, 1 << 10

# A child's peak begins with the memory of the process that starts it, so a small one does.
LAUNCHER = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(status)
"""

COUNT_ALONE = """
import sys, time
from pathlib import Path
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.entropy import counts_of_counts
folder = Path("data/encoded")
parts = list(encoding.load_splits(folder).values())
size = len(Vocabulary.load(folder / "vocabulary.json"))
started, used = time.perf_counter(), time.process_time()
counted = counts_of_counts.streamed(parts, size, 5)
print(time.perf_counter() - started, time.process_time() - used)
print(int(counted[-1].ngrams.frequencies_K.sum()), sum(map(len, parts)))
"""


def automaton(ids: encoding.Ids, symbols: int) -> tuple[NDArray[np.float32], Ints]:
    """Return the 7-gram model as a machine with a state for each context of up to 6 characters.

    Returns:
        cumulative: probabilities of the next symbol, added up, states x V;
        following: the state after each symbol, states x V: the longest context that was seen.
    """
    model = kneser_ney.counts(ids, symbols, ORDER).model(ORDER)
    levels = list(grams(ids, symbols, ORDER))
    sizes = [1, *(len(level.codes_G) for level in levels[:-1])]
    offsets = np.cumsum([0, *sizes])
    # Places of each state's context and of that without its first, second, ... character.
    places = [np.zeros((1, 1), dtype=np.int64)]
    for n, level in enumerate(levels[:-1], start=1):
        first = np.empty(len(level.codes_G), dtype=np.int64)
        first[level.ranks_N[::-1]] = np.arange(len(level.ranks_N))[::-1]
        shorter = np.zeros(len(first), dtype=np.int64)
        if n > 1:
            shorter = levels[n - 2].ranks_N[first + 1]
        places.append(np.column_stack([places[-1][shorter], np.arange(len(first))]))
    following = np.zeros((offsets[-1], symbols), dtype=np.int64)
    cumulative = np.empty((offsets[-1], symbols), dtype=np.float32)
    for length, contexts in enumerate(places):
        here = slice(offsets[length], offsets[length + 1])
        missing = [np.full(len(contexts), -1)] * (ORDER - length)
        cumulative[here] = model.probabilities([*contexts.T, *missing]).cumsum(axis=1)
        if length:
            following[here] = following[offsets[length - 1] + contexts[:, length - 1]]
        if length < ORDER - 1:
            codes = levels[length].codes_G
            following[here].reshape(-1)[codes] = offsets[length + 1] + np.arange(len(codes))
    return cumulative, following


def sampled() -> Iterator[bytes]:
    """Yield text drawn from the 7-gram model, in segments of one stream after the other."""
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    cumulative, following = automaton(encoding.load_split(ENCODED, "train"), len(vocabulary))
    random = np.random.default_rng(1)
    symbols = np.frombuffer(vocabulary.symbols.encode(), dtype=np.uint8)
    state = np.zeros(STREAMS, dtype=np.int64)
    while True:
        segment = np.empty((STREAMS, SEGMENT), dtype=np.uint8)
        for place in range(SEGMENT):
            drawn = (cumulative[state] < random.random((STREAMS, 1), dtype=np.float32)).sum(axis=1)
            drawn = np.minimum(drawn, len(vocabulary) - 1)
            segment[:, place] = drawn
            state = following[state, drawn]
        yield symbols[segment].tobytes()


def uniform() -> Iterator[bytes]:
    """Yield 65 equally likely symbols."""
    random = np.random.default_rng(2)
    while True:
        yield random.integers(ord("!"), ord("!") + 65, 1 << 22, dtype=np.uint8).tobytes()


def unicode() -> Iterator[bytes]:
    """Yield 5,000 symbols of three bytes, a few frequent and many rare."""
    random = np.random.default_rng(3)
    share = 1 / (np.arange(5000) + 2.7)
    cumulative = (share / share.sum()).cumsum()
    points = np.arange(0x4E00, 0x4E00 + 5000)
    spelt = np.column_stack([0xE0 | points >> 12, 0x80 | points >> 6 & 63, 0x80 | points & 63])
    spelt = spelt.astype(np.uint8)
    while True:
        yield spelt[np.searchsorted(cumulative, random.random(1 << 20) * cumulative[-1])].tobytes()


GENERATORS: dict[str, Callable[[], Iterator[bytes]]] = {
    "sampled": sampled,
    "uniform": uniform,
    "unicode": unicode,
}


def write(path: Path, pieces: Iterator[bytes], size: int) -> None:
    """Write the first `size` bytes, or two less, so that no character is cut."""
    with path.open("wb") as file:
        missing = size // 3 * 3
        while missing:
            missing -= file.write(next(pieces)[:missing])


def run(folder: Path, *command: str) -> tuple[dict[str, float], str]:
    """Run Python in a folder; return its time and memory, and what it printed.

    Processor seconds say more than the clock's where other work is running.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)[:60]} failed")
    *output, last = done.stdout.splitlines()
    seconds, processor, peak = map(float, last.split())
    # ru_maxrss counts kilobytes on Linux, bytes on macOS.
    peak *= 1 if sys.platform == "darwin" else 1024
    usage = {"seconds": seconds, "processor_seconds": processor, "peak_gb": peak / 1e9}
    return {key: round(value, 3) for key, value in usage.items()}, "\n".join(output)


def measure(folder: Path, source: Path) -> dict[str, Any]:
    """Encode a text and count it, each in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data/raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    # Whether a text is long enough for every model is not what is measured.
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for section in ("models", "runs"):
        content[section] = {"bigram": content[section]["bigram"]}
    content |= {"ensembles": {}, "dynamic": {}}
    yaml.dump(content, folder / "params.yaml")
    os.link(source, folder / "data/raw/corpus.txt")
    results: dict[str, Any] = {"bytes": source.stat().st_size}
    for stage in ("encode", "entropy"):
        results[stage], _ = run(folder, "-m", f"stages.{stage}")
    usage, output = run(folder, "-c", COUNT_ALONE)
    seconds, processor, distinct, characters = map(float, output.split())
    results["characters"] = int(characters)
    results["distinct_5_grams"] = int(distinct)
    results["count_to_5"] = {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "peak_gb": usage["peak_gb"],
    }
    entropy = read_json(folder / "results/entropy.json")
    results["plug_in_conditional_bits"] = [
        round(row["estimates"]["plug_in"]["conditional_bits_per_char"], 4)
        for row in entropy["texts"]["whole"]["orders"]
    ]
    shutil.rmtree(folder)
    return results


def draw(results: dict[str, dict[str, Any]]) -> None:
    """Draw seconds against size, both logarithmic, with a line of slope one."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(GENERATORS, ("tab:blue", "tab:red", "tab:green"), strict=True):
        rows = sorted((row["bytes"] / 1e6, row) for row in results.values() if row["text"] == name)
        for task, marker, line in (("count_to_5", "o", "-"), ("encode", "s", "--")):
            axes.plot(
                [size for size, _ in rows],
                [row[task]["seconds"] for _, row in rows],
                marker=marker,
                linestyle=line,
                color=colour,
                label=f"{name}: {'orders 1 to 5' if task == 'count_to_5' else 'encode'}",
            )
    axes.plot(
        MEGABYTES, [size / 10 for size in MEGABYTES], ":", color="0.5", label="10 MB a second"
    )
    axes.set(xscale="log", yscale="log", xlabel="size of the text, MB", ylabel="seconds")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})


@script(__doc__)
@click.argument("folder", type=click.Path(path_type=Path, resolve_path=True))
@click.argument(
    "words",
    nargs=-1,
    type=click.Choice([*GENERATORS, *map(str, MEGABYTES)]),
    metavar="[TEXT|MEGABYTES]...",
)
def main(folder: Path, words: tuple[str, ...]) -> None:
    """Measure the texts and sizes that are named, or all; what was measured before is kept."""
    sizes = [int(word) for word in words if word.isdecimal()] or list(MEGABYTES)
    texts = [word for word in words if not word.isdecimal()] or list(GENERATORS)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "text"
    results: dict[str, dict[str, Any]] = read_json(OUTPUT)["results"] if OUTPUT.is_file() else {}
    for name in texts:
        for megabytes in sizes:
            write(source, GENERATORS[name](), megabytes * 1_000_000)
            key = f"{name} {megabytes} MB"
            results[key] = {"text": name, **measure(folder / "run", source)}
            print(key, results[key], flush=True)
            source.unlink()
            in_order = {
                key: results[key]
                for key in (f"{text} {size} MB" for text in GENERATORS for size in MEGABYTES)
                if key in results
            }
            record = {"command": "python -m benchmarks.scale FOLDER", "results": in_order}
            write_json(OUTPUT, {**record, "machine": machine(start_torch())})
    draw(results)


if __name__ == "__main__":
    main()
