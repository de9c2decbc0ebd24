"""The command `search`: hyperparameters where a grid will not do.

Optuna's tree-structured Parzen estimator proposes values, or they are drawn at random. Each trial
is an experiment of DVC's queue, so DVC and MLflow show it like any other. The loss is the one that
experiments are chosen by: validation bits per character, streaming.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; Akiba et al., "Optuna:
A Next-generation Hyperparameter Optimization Framework", 2019.
"""

import copy
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from ruamel.yaml import YAML

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError

if TYPE_CHECKING:
    import optuna

POLL_S = 2.0
"""Seconds between two looks at the queue."""

LOSSES = "reports/validation_bits_per_char.json"
WIDE = 10.0
"""A range whose ends differ by this factor is searched by its logarithm."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The values of one key of params.yaml: some `choices`, or numbers from `low` to `high`."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0

    def propose(self, trial: "optuna.Trial") -> Any:
        """Return a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        log = self.low > 0 and self.high / self.low >= WIDE
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=log)
        # Four digits are enough, and a name that can be read.
        return float(f"{trial.suggest_float(self.key, self.low, self.high, log=log):.4g}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all others in a check."""
        return self.choices or (self.low, self.high)


def read_space(text: str) -> Space:
    """Read KEY=LOW..HIGH or KEY=ONE,OTHER,...

    Raises:
        UserError: it is neither.
    """
    key, equals, values = text.partition("=")
    yaml = YAML(typ="safe", pure=True)
    parts = values.split("..") if ".." in values else values.split(",")
    ends = [yaml.load(part) for part in parts]
    if not (key and equals) or len(ends) < 2 or None in ends:
        raise UserError(f"'{text}' is no search space (allowed: KEY=LOW..HIGH or KEY=ONE,OTHER)")
    if ".." not in values:
        return Space(key, tuple(ends))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not numbers or ends[0] >= ends[1]:
        raise UserError(f"'{text}': LOW must be a number below HIGH")
    return Space(key, (), *ends)


def check(spaces: list[Space], content: dict[str, Any]) -> None:
    """Refuse a space that params.yaml does not allow.

    A key of `training` or `sampling` need not stand in the entry yet.

    Args:
        spaces: to be searched.
        content: of params.yaml.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    for space in spaces:
        for value in space.ends:
            changed = copy.deepcopy(content)
            inner: Any = changed
            *parents, last = space.key.split(".")
            for parent in parents:
                inner = inner.get(parent) if isinstance(inner, dict) else None
            defaults = content.get(parents[-1], {}) if parents else {}
            if not isinstance(inner, dict) or last not in {**inner, **defaults}:
                raise UserError(f"params.yaml has no key {space.key}")
            inner[last] = value
            params.parse(changed, f"params.yaml with {space.key}={value}")


def search(
    spaces: list[Space],
    trials: int,
    batch: int,
    sampler: "optuna.samplers.BaseSampler",
    measure: Callable[[list[Values]], list[tuple[str, float | None]]],
) -> list[tuple[float | None, str, Values]]:
    """Propose values, have them measured, and learn from what came of them.

    Args:
        spaces: what to propose.
        trials: how many.
        batch: proposals that are measured together; a batch learns from those before it.
        sampler: proposes.
        measure: returns the name and the loss of each experiment, None for one that failed.

    Returns:
        loss, name and values of each trial, the best first, failed ones last.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    rows: list[tuple[float | None, str, Values]] = []
    while len(rows) < trials:
        asked = [study.ask() for _ in range(min(batch, trials - len(rows)))]
        proposed = [{space.key: space.propose(trial) for space in spaces} for trial in asked]
        for trial, values, (name, loss) in zip(asked, proposed, measure(proposed), strict=True):
            rows.append((loss, name, values))
            if loss is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, loss)
    return sorted(rows, key=lambda row: float("inf") if row[0] is None else row[0])


def dvc_output(*arguments: str) -> str:
    """Run DVC and return what it prints.

    Raises:
        UserError: it fails; its own last line says why.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(f"dvc {arguments[0]}: {' '.join(lines) or 'failed'}")
    return done.stdout + done.stderr


def by_queue(proposed: list[Values], model: str, workers: int) -> list[tuple[str, float | None]]:
    """Measure proposals as experiments of DVC's queue; see `search`."""
    import dvc.api

    names = [queue(values) for values in proposed]
    dvc_output("queue", "start", "-j", str(workers))
    while waiting(names):
        time.sleep(POLL_S)
    rows = {row["Experiment"]: row for row in dvc.api.exp_show()}
    return [(name, loss_of(rows.get(name, {}), model)) for name in names]


def queue(values: Values) -> str:
    """Queue an experiment with these values of params.yaml; return its name."""
    # Two pluses set a key whether the entry has it yet or not.
    flags = [word for key, value in values.items() for word in ("-S", f"++{key}={value}")]
    output = dvc_output("exp", "run", "--queue", *flags)
    name = re.search(r"Queued experiment '([^']+)'", output)
    if not name:
        raise UserError(f"dvc exp run --queue: {' '.join(output.split())}")
    return name[1]


def waiting(names: list[str]) -> bool:
    """Return whether one of these experiments is still queued or running."""
    for line in dvc_output("queue", "status").splitlines():
        words = line.split()
        if words and words[-1] in ("Queued", "Running") and set(words) & set(names):
            return True
    return False


def loss_of(row: dict[str, Any], model: str) -> float | None:
    """Return a model's loss in a row of `dvc exp show`; None if the experiment failed.

    DVC names a column by its file too where a parameter has the same name.
    """
    loss: float | None = row.get(f"{LOSSES}:{model}", row.get(model))
    return loss


@click.command()
@click.argument("spaces", nargs=-1, required=True)
@click.option("--model", required=True, help="Entry whose validation loss is to become small.")
@click.option("--trials", default=12, type=click.IntRange(1), show_default=True)
@click.option("--workers", default=2, type=click.IntRange(1), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the proposals.")
@click.option("--random", "at_random", is_flag=True, help="Draw values instead of learning.")
@one_line_errors
def main(
    spaces: tuple[str, ...], model: str, trials: int, workers: int, seed: int, at_random: bool
) -> None:
    """Search SPACES for the lowest validation loss of a model.

    Each is KEY=LOW..HIGH or KEY=ONE,OTHER, of params.yaml.

    \b
    Example:
      charlm search --model bigram --trials 12 \\
          models.bigram.training.learning_rate=1e-4..1e-1 models.bigram.training.batch=16,32,64
    """
    settings = params.load()
    settings.named(model)
    read = [read_space(text) for text in spaces]
    check(read, YAML(typ="safe", pure=True).load(Path("params.yaml")))

    import optuna

    kind = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
    rows = search(
        read, trials, workers, kind(seed=seed), lambda some: by_queue(some, model, workers)
    )
    for loss, name, values in rows:
        bits = "failed" if loss is None else f"{loss:.4f}"
        click.echo(f"{bits:>7}  {name:24}  {' '.join(f'{k}={v}' for k, v in values.items())}")
    if rows[0][0] is not None:
        click.echo(f"`dvc exp apply {rows[0][1]}` makes the best one yours")


if __name__ == "__main__":
    main()
