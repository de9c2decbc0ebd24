"""The command `search`: hyperparameters where a grid will not do.

Optuna's tree-structured Parzen estimator proposes values, or they are drawn at random. Each trial
is an experiment of DVC's queue, so DVC and MLflow show it like any other. The loss is the one that
experiments are chosen by: validation bits per character, streaming.

With a database, several clones share the trials of one study: each asks Optuna for the next one.
What a clone was at when it was killed is handed out again.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; Akiba et al., "Optuna:
A Next-generation Hyperparameter Optimization Framework", 2019.
"""

import contextlib
import copy
import json
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.config.messages import unknown
from charlm.errors import UserError

if TYPE_CHECKING:
    import optuna

WAITING, NO_WORKERS = ("Queued", "Running"), "0 active, 0 idle"
"""What `dvc queue status` says."""

PATIENCE_S = 60.0
"""Seconds in which the queue's workers begin."""

POLL_S = 5.0
"""Seconds between two looks at the queue."""

LOSSES = "reports/validation_bits_per_char.json"
EXPERIMENT = "experiment"
"""Attribute of a trial that was measured: the name of its experiment, and its values."""

ABOUT = "about"
"""Attribute of a study: what it searches."""

BEAT_S, STALE_S = 15, 60
"""Seconds between two signs of life, and after which a clone's trials are handed out again."""

ATTEMPTS = 10
"""To open a database whose tables another clone is making."""

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
            # Optuna's databases hold no lists.
            by_text = {as_text(choice): choice for choice in self.choices}
            return by_text[trial.suggest_categorical(self.key, tuple(by_text))]
        log = self.low > 0 and self.high / self.low >= WIDE
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=log)
        # Four digits are enough, and a name that can be read.
        return float(f"{trial.suggest_float(self.key, self.low, self.high, log=log):.4g}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all others in a check."""
        return self.choices or (self.low, self.high)


def as_text(value: Any) -> str:
    """Return a value as params.yaml may have it, and DVC's -S."""
    return value if isinstance(value, str) else json.dumps(value)


def read_spaces(texts: Iterable[str]) -> list[Space]:
    """Read the space of each key.

    Raises:
        UserError: one is none, or a key has two.
    """
    spaces = [read_space(text) for text in texts]
    keys = [space.key for space in spaces]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{key} is given twice: keep one")
    return spaces


def read_space(text: str) -> Space:
    """Read KEY=LOW..HIGH or KEY=ONE,OTHER,...

    Raises:
        UserError: it is neither.
    """
    key, equals, values = text.partition("=")
    listed = f"[{','.join(values.split('..')) if '..' in values else values}]"
    wrong = f"'{text}' is no search space (allowed: KEY=LOW..HIGH or KEY=ONE,OTHER)"
    try:
        ends = params.content(listed, text)
    except UserError:
        raise UserError(wrong) from None
    # YAML passes over a comma at the end of a list, and reads nothing as null.
    if not (key and equals) or len(ends) < 2 or values.endswith((",", "..")):
        raise UserError(wrong)
    if ".." not in values:
        return Space(key, tuple(ends))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not numbers or ends[0] >= ends[1]:
        raise UserError(f"'{text}': LOW must be a number below HIGH")
    return Space(key, (), *ends)


def check(space: Space, content: dict[str, Any]) -> Space:
    """Return a space that params.yaml allows, of integers only where the key takes nothing else.

    A key of `training` or `sampling` need not stand in the entry yet.

    Args:
        space: to be searched.
        content: of params.yaml.

    Raises:
        UserError: params.yaml refuses an end or a choice.
    """
    for value in space.ends:
        parse_with(content, space.key, value)
    if not space.choices and isinstance(space.low, int) and isinstance(space.high, int):
        with contextlib.suppress(UserError):
            parse_with(content, space.key, space.low + 0.5)
            return replace(space, low=float(space.low), high=float(space.high))
    return space


def parse_with(content: dict[str, Any], key: str, value: Any) -> None:
    """Check params.yaml with another value of a key.

    Raises:
        UserError: there is no such key, or it may not have that value.
    """
    changed = copy.deepcopy(content)
    inner: Any = changed
    *parents, last = key.split(".")
    for parent in parents:
        inner = inner.get(parent) if isinstance(inner, dict) else None
    defaults = content.get(parents[-1], {}) if parents else {}
    if not isinstance(inner, dict) or last not in {**inner, **defaults}:
        raise UserError(f"params.yaml has no key {key}")
    inner[last] = value
    params.parse(changed, f"params.yaml with {key}={as_text(value)}")


def storage_of(database: str) -> "optuna.storages.RDBStorage":
    """Return Optuna's storage in a database, with its tables made if there are none.

    Raises:
        UserError: the database is MLflow's. Both keep the version of their tables under one name.
    """
    import optuna
    import sqlalchemy

    engine = sqlalchemy.create_engine(database)
    tables = set(sqlalchemy.inspect(engine).get_table_names())
    engine.dispose()
    if "experiment_tags" in tables:
        raise UserError("--database: it is MLflow's: make another database for searches")
    attempts = 0
    while True:
        try:
            return optuna.storages.RDBStorage(
                database,
                heartbeat_interval=BEAT_S,
                grace_period=STALE_S,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            )
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Another clone makes the tables at this moment.
            attempts += 1
            if "already exists" not in str(error) or attempts == ATTEMPTS:
                raise
            time.sleep(1.0)


class Study:
    """Trials of one search, in memory or in a database that several clones share.

    Args:
        sampler: makes what proposes, from a seed.
        seed: of the proposals; each trial has one made of it and its number.
        database: an address of SQLAlchemy's; None keeps trials in memory.
        name: of the study in the database.
        about: what is searched; a study of the database that is about something else is refused.

    Raises:
        UserError: the database cannot be used, or the study is another search's.
    """

    def __init__(
        self,
        sampler: Callable[[int], "optuna.samplers.BaseSampler"],
        seed: int,
        database: str | None = None,
        name: str = "charlm",
        about: str = "",
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sampler, self._seed = sampler, seed
        self._storage: optuna.storages.RDBStorage | None = None
        self._open: set[int] = set()  # ids of the trials that are being measured here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                if database:
                    self._storage = storage_of(database)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, load_if_exists=True
                )
            except ImportError as error:
                raise UserError(
                    f"--database needs {error.name or error}: `make extras` installs it"
                ) from None
            except UserError:
                raise
            except Exception as error:
                line = " ".join(str(error).split())[:300]
                raise UserError(f"--database: {line or type(error).__name__}") from None
        known = self._study.user_attrs.get(ABOUT, about)
        if known != about:
            raise UserError(f"--study: {name} is of another search ({known}): give this one a name")
        if self._storage is not None:
            self._study.set_user_attr(ABOUT, about)
            threading.Thread(target=self._beat, args=[self._storage], daemon=True).start()

    def ask(self, trials: int) -> "optuna.Trial | None":
        """Return the next trial, or None if so many were handed out, by whatever clone."""
        import optuna

        with warnings.catch_warnings():
            # Both are about heartbeats, which a study of ask and tell has to send itself.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            optuna.storages.fail_stale_trials(self._study)
            waiting = self._study.get_trials(False, (optuna.trial.TrialState.WAITING,))
            if len(self._handed_out()) >= trials and not waiting:
                return None
            trial = self._study.ask()
        if self._storage is not None:
            self._storage.record_heartbeat(trial._trial_id)
            self._open.add(trial._trial_id)
        # Two clones may have asked at once: the later trial is one too many.
        if sum(other.number < trial.number for other in self._handed_out()) >= trials:
            self._open.discard(trial._trial_id)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return None
        # Clones that begin with the same seed would propose the same.
        self._study.sampler = self._sampler((self._seed * 1_000_003 + trial.number) % 2**32)
        return trial

    def _beat(self, storage: "optuna.storages.RDBStorage") -> None:
        """Say now and then that the trials are still being measured here."""
        while True:
            time.sleep(BEAT_S)
            for number in list(self._open):
                with contextlib.suppress(Exception):  # the next beat tries again
                    storage.record_heartbeat(number)

    def tell(
        self, trial: "optuna.Trial", values: Values, experiment: str, loss: float | None
    ) -> None:
        """Note what came of a trial; no loss means that its experiment failed."""
        import optuna

        self._open.discard(trial._trial_id)
        state = optuna.trial.TrialState.FAIL if loss is None else None
        # Of a clone that could not say for so long that it is alive, another has the trial.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr(EXPERIMENT, [experiment, values])
            self._study.tell(trial, loss, state=state)

    @property
    def running(self) -> bool:
        """Whether a trial has been handed out that nobody has told the end of."""
        import optuna

        return bool(self._study.get_trials(False, (optuna.trial.TrialState.RUNNING,)))

    def rows(self) -> list[tuple[float | None, str, Values]]:
        """Return loss, experiment and values of each trial, the best first, failed ones last."""
        rows = [
            (trial.value, *trial.user_attrs[EXPERIMENT])
            for trial in self._handed_out()
            if EXPERIMENT in trial.user_attrs
        ]
        return sorted(rows, key=lambda row: float("inf") if row[0] is None else row[0])

    def _handed_out(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that are being measured or were, but not those of killed clones."""
        import optuna

        states = optuna.trial.TrialState
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state in (states.RUNNING, states.COMPLETE)
            or (trial.state == states.FAIL and EXPERIMENT in trial.user_attrs)
        ]


def search(
    study: Study,
    spaces: list[Space],
    trials: int,
    batch: int,
    measure: Callable[[list[Values]], list[tuple[str, float | None]]],
) -> list[tuple[float | None, str, Values]]:
    """Propose values, have them measured, and learn from what came of them.

    Args:
        study: holds the trials.
        spaces: what to propose.
        trials: how many, of all clones together.
        batch: proposals that are measured together; a batch learns from those before it.
        measure: returns the name and the loss of each experiment, None for one that failed.

    Returns:
        loss, name and values of each trial, the best first, failed ones last.
    """
    while True:
        asked: list[optuna.Trial] = []
        proposed: list[Values] = []
        while len(asked) < batch and (trial := study.ask(trials)) is not None:
            asked.append(trial)
            proposed.append({space.key: space.propose(trial) for space in spaces})
        if not asked:
            if not study.running:
                return study.rows()
            time.sleep(POLL_S)  # another clone is at them, or was when it was killed
            continue
        measured = measure(proposed)
        for trial, values, (name, loss) in zip(asked, proposed, measured, strict=True):
            study.tell(trial, values, name, loss)


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

    baseline = git_head()
    names = [queue(values) for values in proposed]
    dvc_output("queue", "start", "-j", str(workers))
    try:
        states = ended(names)
    except KeyboardInterrupt:
        click.echo(
            f"{', '.join(names)} go on in DVC's queue: `dvc queue status` shows them, "
            "`dvc queue stop --kill` ends them",
            err=True,
        )
        raise
    # Without a revision a commit that was made meanwhile would hide them.
    rows = {row["Experiment"]: row for row in dvc.api.exp_show(revs=baseline)}
    return [
        # The row of one that failed has the losses of the commit that it began from.
        (name, loss_of(rows.get(name, {}), model) if states.get(name) == "Success" else None)
        for name in names
    ]


def git_head() -> str:
    """Return the commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def override(key: str, value: Any) -> str:
    """Return what DVC's -S is given."""
    return f"++{key}={as_text(value)}"


def queue(values: Values) -> str:
    """Queue an experiment with these values of params.yaml; return its name."""
    # Two pluses set a key whether the entry has it yet or not.
    flags = [word for pair in values.items() for word in ("-S", override(*pair))]
    output = dvc_output("exp", "run", "--queue", *flags)
    name = re.search(r"Queued experiment '([^']+)'", output)
    if not name:
        raise UserError(f"dvc exp run --queue: {' '.join(output.split())}")
    return name[1]


def ended(names: list[str]) -> dict[str, str]:
    """Wait until these experiments of DVC's queue have ended; return the state of each word there.

    Raises:
        UserError: the queue has no workers any more.
    """
    alone_s = 0.0
    while True:
        output, states = dvc_output("queue", "status"), dict[str, str]()
        for line in output.splitlines():
            words = line.split()
            if words and words[-1] in (*WAITING, "Success", "Failed"):
                states |= dict.fromkeys(words[:-1], words[-1])
        if not any(states.get(name) in WAITING for name in names):
            return states
        alone_s = alone_s + POLL_S if NO_WORKERS in output else 0.0
        if alone_s > PATIENCE_S:
            raise UserError(
                f"DVC's queue has no workers any more: `dvc queue start` runs {', '.join(names)}"
            )
        time.sleep(POLL_S)


def loss_of(row: dict[str, Any], model: str) -> float | None:
    """Return a model's loss in a row of `dvc exp show`; None if it has none.

    DVC names a column by its file too where a parameter has the same name.
    """
    loss: float | None = row.get(f"{LOSSES}:{model}", row.get(model))
    return loss


def in_words(values: Values) -> str:
    """Return values as the table shows them."""
    return " ".join(f"{key}={as_text(value)}" for key, value in values.items())


@click.command()
@click.argument("spaces", nargs=-1, required=True)
@click.option(
    "--model", required=True, help="Run or ensemble whose validation loss is to become small."
)
@click.option(
    "--trials",
    default=12,
    type=click.IntRange(1),
    show_default=True,
    help="Of all clones together.",
)
@click.option(
    "--workers",
    default=2,
    type=click.IntRange(1),
    show_default=True,
    help="Experiments at a time, in this clone.",
)
@click.option(
    "--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the proposals."
)
@click.option("--random", "at_random", is_flag=True, help="Draw values instead of learning.")
@click.option(
    "--database", help="Of a study that several clones share: postgresql://…, sqlite:///…"
)
@click.option("--study", default="charlm", show_default=True, help="Its name in the database.")
@one_line_errors
def main(
    spaces: tuple[str, ...],
    model: str,
    trials: int,
    workers: int,
    seed: int,
    at_random: bool,
    database: str | None,
    study: str,
) -> None:
    """Search SPACES for the lowest validation loss of a model.

    Each is KEY=LOW..HIGH or KEY=ONE,OTHER, of params.yaml. With --database the same command in
    other clones, on other machines, works at the same trials.

    \b
    Example:
      charlm search --model bigram --trials 12 \\
          models.bigram.training.learning_rate=1e-4..1e-1 models.bigram.training.batch=16,32,64
    """
    settings = params.load()
    if model not in settings.ranked:
        raise UserError(f"--model: {unknown('ranked model', model, settings.ranked)}")
    content = params.read(Path("params.yaml"))
    read = [check(space, content) for space in read_spaces(spaces)]

    import optuna
    import sqlalchemy

    kind = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
    mine: set[str] = set()

    def measure(proposed: list[Values]) -> list[tuple[str, float | None]]:
        measured = by_queue(proposed, model, workers)
        mine.update(name for name, _ in measured)
        return measured

    about = f"{model}: {' '.join(sorted(spaces))}"
    shared = Study(lambda number: kind(seed=number), seed, database, study, about)
    try:
        rows = search(shared, read, trials, workers, measure)
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"--database: lost ({line}); the same command goes on from there") from None
    for loss, name, values in rows:
        bits = "failed" if loss is None else f"{loss:.4f}"
        click.echo(f"{bits:>7}  {name:24}  {in_words(values)}")
    if not rows or rows[0][0] is None:
        return
    best, values = rows[0][1:]
    if best in mine:
        click.echo(f"`dvc exp apply {best}` makes the best one yours")
    else:
        flags = " ".join(f"-S '{override(*pair)}'" for pair in values.items())
        click.echo(f"the best one was not made by this call; here: dvc exp run {flags}")


if __name__ == "__main__":
    main()
