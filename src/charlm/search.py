"""Search hyperparameters where a grid will not do: `python -m charlm.search`.

Values are proposed by Optuna's tree-structured Parzen estimator, or drawn at random; each trial is
an experiment of DVC's queue, so that everything DVC and MLflow know of an experiment holds for it.
The loss is the one that experiments are chosen by: validation bits per character, streaming.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; Akiba et al., "Optuna:
A Next-generation Hyperparameter Optimization Framework", 2019.
"""

import copy
import json
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
    """What one key of params.yaml may be: one of `choices`, or a number from `low` to `high`."""

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
    found = [yaml.load(part) for part in parts]
    if not (key and equals) or len(found) < 2 or None in found:
        raise UserError(f"'{text}' is no search space (allowed: KEY=LOW..HIGH or KEY=ONE,OTHER)")
    if ".." not in values:
        return Space(key, tuple(found))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in found)
    if len(found) != 2 or not numbers or found[0] >= found[1]:
        raise UserError(f"'{text}': LOW must be a number below HIGH")
    return Space(key, (), *found)


def check(spaces: list[Space], content: dict[str, Any]) -> None:
    """Refuse a space that params.yaml does not allow.

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
            if not isinstance(inner, dict) or last not in inner:
                raise UserError(f"params.yaml has no key {space.key}")
            inner[last] = value
            params.parse(changed, f"params.yaml with {space.key}={value}")


def search(
    spaces: list[Space],
    trials: int,
    at_once: int,
    sampler: "optuna.samplers.BaseSampler",
    measure: Callable[[list[Values]], list[tuple[str, float | None]]],
) -> list[tuple[float | None, str, Values]]:
    """Propose values, have them measured, and learn from what came of them.

    Args:
        spaces: what to propose.
        trials: how many.
        at_once: proposals that are measured together; a round learns from those before it.
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
        asked = [study.ask() for _ in range(min(at_once, trials - len(rows)))]
        proposed = [{space.key: space.propose(trial) for space in spaces} for trial in asked]
        for trial, values, (name, loss) in zip(asked, proposed, measure(proposed), strict=True):
            rows.append((loss, name, values))
            if loss is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, loss)
    return sorted(rows, key=lambda row: float("inf") if row[0] is None else row[0])


def dvc(*arguments: str) -> str:
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
    names = []
    for values in proposed:
        flags = [word for key, value in values.items() for word in ("-S", f"{key}={value}")]
        said = dvc("exp", "run", "--queue", *flags)
        found = re.search(r"Queued experiment '([^']+)'", said)
        if not found:
            raise UserError(f"dvc exp run --queue: {' '.join(said.split())}")
        names.append(found[1])
    dvc("queue", "start", "-j", str(workers))
    while True:
        lines = [line.split() for line in dvc("queue", "status").splitlines()]
        mine = {word: line[-1] for line in lines for word in line if word in names}
        if not {"Queued", "Running"} & set(mine.values()):
            break
        time.sleep(POLL_S)
    losses = {}
    for revisions in json.loads(dvc("exp", "show", "--json")):
        for experiment in revisions.get("experiments") or []:
            data = (experiment["revs"][0].get("data") or {}) if experiment.get("revs") else {}
            found_losses = data.get("metrics", {}).get(LOSSES, {}).get("data", {})
            losses[experiment["name"]] = found_losses.get(model)
    return [(name, losses.get(name)) for name in names]


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
      python -m charlm.search --model bigram --trials 12 \\
          models.bigram.training.learning_rate=1e-4..1e-1 models.bigram.training.batch=16,32,64
    """
    settings = params.load()
    settings.entry(model)
    read = [read_space(text) for text in spaces]
    check(read, YAML(typ="safe", pure=True).load(Path("params.yaml")))

    import optuna

    kind = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
    rows = search(
        read, trials, workers, kind(seed=seed), lambda some: by_queue(some, model, workers)
    )
    for loss, name, values in rows:
        said = "failed" if loss is None else f"{loss:.4f}"
        click.echo(f"{said:>7}  {name:24}  {' '.join(f'{k}={v}' for k, v in values.items())}")
    if rows[0][0] is not None:
        click.echo(f"`dvc exp apply {rows[0][1]}` takes the best over")


if __name__ == "__main__":
    main()
