"""How long people wait: `python -m benchmarks.loop` writes benchmarks/loop.json.

This revision beside the one before stages ran side by side (d491246, or a revision given), each in
a clone with an environment of its own, one after the other:

- installation: `make setup`;
- the pipeline from nothing: `charlm repro` here, `dvc repro` there;
- the same with nothing to do, and plain `dvc repro` here too;
- an experiment on `lstm`, and what of it is not training: `charlm repro` after params.yaml was
  edited here, `dvc exp run` there. Here dynamic evaluation is left out, as docs/experiments.md
  shows: there it cannot be;
- what a stage takes on average where hardly anything is to be done: the whole graph at scale
  smoke, one stage after the other;
- `make test`;
- by simulation from the stages' seconds, the pipeline on one core, two, four and eight.

Nothing else should run. It takes an hour.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from dvc.utils.hydra import apply_overrides

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm.cli import script
from charlm.config import params
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.repro import command
from charlm.repro.schedule import Schedule, Task

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/loop.json"
BEFORE = "d491246"
STEPS = "models.lstm.quick.steps=1000"
SMALL = ["lstm.every=2000", "mixture.every=2000", "mixture.recount=100000"]
"""What makes dynamic evaluation short."""


def clone(folder: Path, revision: str) -> Path:
    """Return a clone of the project at a revision, with what lies beside the project beside it."""
    project = folder / revision / "charlm"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
    subprocess.run(["git", "checkout", "-q", revision], cwd=project, check=True)
    for key, value in (("user.name", "A Newcomer"), ("user.email", "new@example.org")):
        subprocess.run(["git", "config", key, value], cwd=project, check=True)
    if (ROOT.parent / "shared").is_dir():
        (project.parent / "shared").symlink_to(ROOT.parent / "shared")
    return project


def timed(project: Path, *words: str, check: bool = True) -> tuple[float, str]:
    """Return the seconds of a command in a clone, and what it printed; unchecked it may fail."""
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    inherited = {k: v for k, v in os.environ.items() if k not in left_out}
    path = [str(project / ".venv/bin"), f"{sys.base_prefix}/bin", os.defpath]
    environment = {**inherited, "PATH": os.pathsep.join(path)}
    started = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - started
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)} gave {done.returncode}:\n{done.stdout[-3000:]}")
    return seconds, done.stdout


def pipeline(project: Path, *words: str) -> dict[str, float]:
    """Measure installation, and a command that runs the pipeline: all of it, then nothing."""
    setup, _ = timed(project, "make", "setup")
    whole, _ = timed(project, *words)
    print(f"{project.parent.name}: pipeline {whole:.0f} s", flush=True)
    nothing = min(timed(project, *words)[0] for _ in range(3))
    subprocess.run(["git", "commit", "-qam", "results", "--allow-empty"], cwd=project, check=True)
    return {
        "installation_s": round(setup, 1),
        "pipeline_s": round(whole, 1),
        "nothing_to_do_s": round(nothing, 2),
    }


def experiment(project: Path, *words: str) -> dict[str, float]:
    """Measure a command that runs an experiment on `lstm`."""
    seconds, output = timed(project, *words)
    (training,) = re.findall(r"lstm: 1,000 steps in ([0-9.]+) s", output)
    found = {
        "experiment_s": round(seconds, 1),
        "experiment_beyond_training_s": round(seconds - float(training), 1),
    }
    print(found, flush=True)
    return found


def stage(project: Path, *words: str) -> dict[str, float]:
    """Measure a command that runs the graph at scale smoke: seconds for each of its stages."""
    parameters = project / "params.yaml"
    # Its name before the zoo was one.
    section = "dynamic" if "\ndynamic:" in parameters.read_text(encoding="utf-8") else "adaptive"
    apply_overrides(parameters, ["scale=smoke", *(f"{section}.{small}" for small in SMALL)])
    seconds, output = timed(project, *words)
    stages = len(re.findall(r"^Running stage '|^\S+ \(\d+ s\)$", output, re.MULTILINE))
    stages -= len(re.findall(r"^Stage '[^']+' (?:is cached|didn't change)", output, re.MULTILINE))
    print(f"{project.parent.name}: {stages} small stages in {seconds:.0f} s", flush=True)
    return {"stage_s": round(seconds / stages, 2)}


def tests(project: Path) -> dict[str, float]:
    """Measure `make test`; some may fail in an old revision, but nearly all must be run."""
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    seconds, output = timed(project, "make", "test", check=False)
    print(f"{project.parent.name}: {output[-300:]}", flush=True)
    counts = dict[str, int](
        (what, int(number)) for number, what in re.findall(r"(\d+) (passed|failed|error)", output)
    )
    if counts.get("passed", 0) < 500 or "error" in counts:
        raise SystemExit(f"the tests were not run:\n{output[-3000:]}")
    return {"tests_s": round(seconds, 1), "tests_passed": counts["passed"]}


def recorded(project: Path) -> dict[str, float]:
    """Return what each stage took when it last ran in a clone."""
    seconds: dict[str, float] = json.loads(
        (project / ".dvc/tmp" / command.SECONDS).read_text(encoding="utf-8")
    )
    return seconds


def simulated(project: Path, seconds: dict[str, float], cores: int) -> float:
    """Return the seconds of the pipeline on so many cores, were each stage as long as it was."""
    os.chdir(project)
    settings = params.load()
    shutil.rmtree("models", ignore_errors=True)  # so that everything is to be run
    tasks = [
        Task(task.name, task.needs, task.threads, seconds[task.name])
        for task in command.stages_to_run((), lambda stage: command.threads(stage, settings))
    ]
    schedule, now, ends = Schedule(tasks, cores), 0.0, dict[str, float]()
    while schedule.active:
        for task in schedule.start():
            ends[task.name] = now + task.seconds
        first = min(ends, key=lambda name: ends[name])
        now = ends.pop(first)
        schedule.done(first)
    return now


@script(__doc__)
@click.argument("before", default=BEFORE)
def main(before: str) -> None:
    """Measure both and write them with their ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        here, there = clone(Path(scratch), "HEAD"), clone(Path(scratch), before)
        repro = ["charlm", "repro"]
        ours = pipeline(here, *repro)
        seconds = recorded(here)
        plain = min(timed(here, "dvc", "repro", "-q")[0] for _ in range(3))
        apply_overrides(here / "params.yaml", [STEPS, "dynamic_evaluation=false"])
        ours |= experiment(here, *repro)
        apply_overrides(here / "params.yaml", ["dynamic_evaluation=true"])
        ours |= stage(here, *repro, "--jobs", "1")
        ours |= tests(here)
        theirs = pipeline(there, "dvc", "repro")
        theirs |= experiment(there, "dvc", "exp", "run", "-S", STEPS)
        theirs |= stage(there, "dvc", "repro")
        theirs |= tests(there)
        by_cores = {str(n): round(simulated(here, seconds, n), 1) for n in (1, 2, 4, 8)}
        os.chdir(ROOT)
    record = {
        "command": f"python -m benchmarks.loop {before}",
        "machine": machine(start_torch()),
        "before": theirs,
        "now": ours,
        "ratio": {key: round(ours[key] / theirs[key], 2) for key in ours if key.endswith("_s")},
        "nothing_to_do_by_dvc_s": round(plain, 2),
        "simulated_pipeline_s_by_cores": by_cores,
    }
    write_json(OUTPUT, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
