"""params.yaml as typed objects: read once, checked whole, before torch is imported.

Every message names the file, the key, what is wrong and what is allowed, in one line.
"""

import functools
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from charlm.config import architectures
from charlm.config.messages import (
    check_keys,
    check_mapping,
    check_name,
    named,
    unknown,
    validate,
)
from charlm.config.schema import Positive, PositiveRate, Rate, Schema, Share
from charlm.config.training import Training
from charlm.errors import UserError

SCALES = ("smoke", "quick", "full")
ENTRY_KEYS = ("model", "architecture", "training", "sampling", *SCALES)
LONGEST_MESSAGE = 1000
"""Characters of a message: keys and values may hold anything, and any amount of it."""

LONGEST_TEXT, MOST_DRAWN = 1_000_000, 10_000_000
"""Characters of one drawn text, and of all that are drawn at once with their prompts."""

LARGEST = {"layers": 1000}
"""What a size of an architecture can be, at most; 2^20 if it is not here."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
RunSeed = Annotated[int, Field(ge=0, lt=2**63 - 1)]  # batches have the next one


class Corpus(Schema):
    """Where the text comes from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    path: Annotated[str, Field(min_length=1)]
    sources: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    bytes: Positive | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class Split(Schema):
    """Shares of the text, in its order."""

    train: Share
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1, not {total:.10g}")
        return self


class Entropy(Schema):
    """Which n-grams to count."""

    orders: Annotated[list[Annotated[int, Field(ge=1, le=32)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.orders != sorted(set(self.orders)):
            raise ValueError("orders must ascend without repetition")
        return self


class Sampling(Schema):
    """How text is drawn."""

    prompt: Annotated[str, Field(min_length=1)] | None
    length: Annotated[int, Field(ge=1, le=LONGEST_TEXT)]
    temperature: Rate
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    context: Any
    samples: Annotated[int, Field(ge=1, le=1000)]
    seed: Seed

    @field_validator("context")
    @classmethod
    def _number_or_block(cls, context: Any) -> Any:
        number = type(context) is int and 0 < context <= MOST_DRAWN
        if not (number or context is None or context == "block"):
            raise ValueError(
                f"must be a positive number up to {MOST_DRAWN:,}, block or null, not {context!r}"
            )
        return context

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        characters = (len(self.prompt or "") + self.length) * self.samples
        if characters > MOST_DRAWN:
            raise ValueError(
                f"prompt, length ({self.length:,}) and samples ({self.samples:,}) make "
                f"{characters:,} characters; at most {MOST_DRAWN:,} are drawn at once"
            )
        return self


class Entry(Schema):
    """An entry of `models` at the scale in use: an architecture, its sizes, how it is trained.

    Attributes:
        model: the architecture, a file of charlm.models.
        architecture: its sizes.
        training: the defaults, with what the entry does differently.
        sampling: likewise.
    """

    name: str
    model: str
    architecture: dict[str, Any]
    training: Training
    sampling: Sampling


class Line(Schema):
    """A line of `runs` as it stands in params.yaml."""

    entry: str
    model: str
    text: Literal["train", "all"]
    seed: RunSeed


class Run(Entry):
    """One training: an entry, a text and a seed.

    Attributes:
        entry: its name.
        text: train, or all of the text; a run on all of it has seen the holdout and is in no
            ranking.
        seed: of fresh weights; batches and dropout have the next one.
    """

    entry: str
    text: Literal["train", "all"]
    seed: RunSeed


class Ensemble(Schema):
    """Two trained models as one.

    Attributes:
        first: a run on the training split, or an ensemble above this one.
        second: likewise.
        mixing: how probabilities are put together; best: whichever has the lower validation loss.
        sampling: how text is drawn.
    """

    name: str
    first: str
    second: str
    mixing: Literal["linear", "geometric", "best"]
    sampling: Sampling

    @property
    def members(self) -> tuple[str, str]:
        """The names of both."""
        return self.first, self.second


class Dynamic(Schema):
    """How a model learns from the characters that it has been scored on; units in params.yaml."""

    every: Positive
    learning_rate: PositiveRate
    epsilon: PositiveRate
    decay: Rate
    statistics: Positive
    recount: Positive
    context_rate: Rate


class Params(Schema):
    """The whole file, with each entry at the scale in use."""

    scale: Literal["smoke", "quick", "full"]
    corpus: Corpus
    split: Split
    entropy: Entropy
    processes: Positive
    checkpoint_every: PositiveRate
    excerpt: Annotated[int, Field(ge=1, le=5000)]
    sampling: Sampling
    training: Training
    models: dict[str, Entry]
    runs: dict[str, Run]
    ensembles: dict[str, Ensemble]
    dynamic_evaluation: bool
    dynamic: dict[str, Dynamic]

    @property
    def names(self) -> list[str]:
        """The names of everything that ends in a folder of models/: runs, then ensembles."""
        return [*self.runs, *self.ensembles]

    @property
    def ranked(self) -> list[str]:
        """The names in the ranking: the first run of each entry on train, then ensembles."""
        # Reversed, so that of several runs of an entry the first one stays.
        first = {
            run.entry: name for name, run in reversed(self.runs.items()) if run.text == "train"
        }
        runs = [name for name, run in self.runs.items() if first.get(run.entry) == name]
        return [*runs, *self.ensembles]

    def repeats(self, name: str) -> list[str]:
        """Return the runs that differ from a ranked one by their seed alone."""
        if name not in self.runs:
            return []
        entry = self.runs[name].entry
        same = [n for n, run in self.runs.items() if run.entry == entry and run.text == "train"]
        return [other for other in same if other != name]

    def leaving_out(self, *names: str) -> str:
        """Return the options of `dvc exp run` that leave out models and what needs them."""
        gone = [*names]
        for other, entry in self.ensembles.items():
            if other not in gone and {*gone} & {*entry.members}:
                gone.append(other)
        keys = [f"{'runs' if each in self.runs else 'ensembles'}.{each}" for each in gone]
        keys += [f"dynamic.{each}" for each in gone if each in self.dynamic]
        return " ".join(f"-S '~{key}'" for key in keys)

    def named(self, name: str) -> Run | Ensemble:
        """Return a run or an ensemble.

        Raises:
            UserError: params.yaml has neither.
        """
        both: dict[str, Run | Ensemble] = {**self.runs, **self.ensembles}
        return named("model", name, both)

    def run(self, name: str) -> Run:
        """Return a run.

        Raises:
            UserError: params.yaml has no such run.
        """
        return named("run", name, self.runs)

    def ensemble(self, name: str) -> Ensemble:
        """Return an ensemble.

        Raises:
            UserError: params.yaml has no such ensemble.
        """
        return named("ensemble", name, self.ensembles)

    def learner(self, name: str) -> Dynamic:
        """Return how a model learns in dynamic evaluation.

        Raises:
            UserError: `dynamic` in params.yaml has no such model.
        """
        return named("entry of dynamic", name, self.dynamic)


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Args:
        path: relative to the working directory: a queued experiment has its own copy.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    return _parsed(_read(path), path)


def read(path: Path) -> Any:
    """Return the content of a YAML file of the project, unchecked.

    Raises:
        UserError: it is missing, or is no YAML.
    """
    return content(_read(path), str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no {path} in {Path.cwd()}: run this in the project's folder") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None


@functools.lru_cache(maxsize=1)
def _parsed(text: str, path: Path) -> Params:
    return parse(content(text, str(path)), str(path))


def content(text: str, where: str) -> Any:
    """Return the content of a YAML text, unchecked; `where` is its name for messages.

    Raises:
        UserError: it is no YAML.
    """
    with suppress(YAMLError, ValueError, RecursionError):
        # YAML 1.2, as DVC reads it: 1e-3 is a number and a repeated key is an error.
        return YAML(typ="safe").load(text)
    try:
        # Slower by far, but its messages name the line where a mistake begins.
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def parse(content: Any, where: str) -> Params:
    """Check the content of params.yaml; `where` is the file's name for messages.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    try:
        return _parse(content, where)
    except UserError as error:
        line = " ".join(str(error).split())
        if len(line) > LONGEST_MESSAGE:
            line = f"{line[:LONGEST_MESSAGE]} ..."
        raise UserError(line) from None


def _parse(content: Any, where: str) -> Params:
    """Check the parts first, so that a message names the key as the user wrote it."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping with {', '.join(Params.model_fields)}")
    check_keys(content, Params.model_fields, where, "")
    for section in ("training", "sampling", "models", "runs", "ensembles", "dynamic"):
        check_mapping(content[section], f"{where}: {section}")
    if not content["runs"]:
        raise UserError(f"{where}: runs: must have at least one run")
    sampling = validate(Sampling, content["sampling"], f"{where}: sampling")
    validate(Training, content["training"], f"{where}: training")
    # Every scale of every model is checked, so that a mistake shows before it is needed.
    scale = content["scale"] if content["scale"] in SCALES else "quick"
    entries: dict[Any, Entry] = {}
    for name, entry in content["models"].items():
        described = _Described(name, entry, content["training"], sampling, where)
        entries[name] = {each: described.at(each) for each in SCALES}[scale]
    runs = {name: _run(name, line, entries, where) for name, line in content["runs"].items()}
    ensembles: dict[Any, Ensemble] = {}
    for name, entry in content["ensembles"].items():
        ensembles[name] = _ensemble(name, entry, runs, ensembles, sampling, where)
    settings = validate(
        Params, {**content, "models": entries, "runs": runs, "ensembles": ensembles}, where
    )
    for entry in entries.values():
        batch = entry.training.batch
        if batch is not None and batch < settings.processes:
            raise UserError(
                f"{where}: processes: {settings.processes} processes cannot share batches of "
                f"{batch} sequences (models.{entry.name}.{scale})"
            )
    _check_dynamic(settings, where)
    return settings


class _Described:
    """An entry of `models` as it stands in params.yaml.

    Args:
        name: of the entry.
        entry: its content.
        defaults: the section `training`.
        sampling: the section `sampling`.
        where: name of the file, for messages.
    """

    def __init__(
        self, name: Any, entry: Any, defaults: dict[str, Any], sampling: Sampling, where: str
    ) -> None:
        check_name(name, f"{where}: models")
        self._name, self._entry, self._defaults = name, entry, defaults
        self._key = f"{where}: models.{name}"
        check_mapping(entry, self._key)
        check_keys(entry, ENTRY_KEYS, where, f"models.{name}.")
        for part in ENTRY_KEYS[1:]:
            check_mapping(entry[part], f"{self._key}.{part}")
        allowed = architectures.names()
        if entry["model"] not in allowed:
            raise UserError(f"{self._key}.model: {unknown('model', entry['model'], allowed)}")
        self._schema = architectures.sizes(entry["model"])
        self._sampling = _sampling(entry, self._key, sampling)

    def at(self, scale: str) -> Entry:
        """Return the entry at a scale: the parts joined and checked."""
        places = self._places(scale)
        sizes: dict[str, Any] = {}
        plan = dict(self._defaults)
        for setting, part in places.items():
            chosen = sizes if setting in self._schema.model_fields else plan
            chosen[setting] = self._entry[part][setting]
        for setting in self._schema.model_fields:
            if setting not in sizes:
                raise UserError(
                    f"{self._key}.{scale}: '{setting}' is missing "
                    f"(it belongs there or in models.{self._name}.architecture)"
                )

        def locate(setting: str) -> str:
            first = setting.split("[")[0].split(".")[0]
            place = f"{self._key}.{places.get(first, scale)}"
            return f"{place}.{setting}" if setting else place

        validate(self._schema, sizes, locate)
        check_sizes(sizes, locate)
        training = validate(Training, plan, locate)
        counted = training.steps is None and training.epochs is None
        if counted and self._schema.by_steps:
            raise UserError(f"{self._key}.{scale}: 'steps' is missing (a number, or epochs)")
        if not counted and not self._schema.by_steps:
            raise UserError(f"{self._key}.{scale}: a model that only counts has no steps or epochs")
        return Entry(
            name=self._name,
            model=self._entry["model"],
            architecture=sizes,
            training=training,
            sampling=self._sampling,
        )

    def _places(self, scale: str) -> dict[str, str]:
        """Return the part of the entry that each setting stands in; it may stand in one alone."""
        sizes, plan = [*self._schema.model_fields], [*Training.model_fields]
        known = {"architecture": sizes, "training": plan, scale: [*sizes, *plan]}
        places: dict[str, str] = {}
        for part, settings in known.items():
            for setting in self._entry[part]:
                if setting not in settings:
                    raise UserError(f"{self._key}.{part}: {unknown('key', setting, settings)}")
                if setting in places:
                    raise UserError(
                        f"{self._key}.{part}.{setting}: also stands in "
                        f"models.{self._name}.{places[setting]}; keep one"
                    )
                places[setting] = part
        return places


def _run(name: Any, line: Any, entries: Mapping[Any, Entry], where: str) -> Run:
    """Check a line of `runs` and join it with its entry."""
    check_name(name, f"{where}: runs")
    key = f"{where}: runs.{name}"
    check_mapping(line, key)
    checked = validate(Line, line, key)
    if checked.entry not in entries:
        raise UserError(
            f"{key}.entry: {unknown('entry of models', checked.entry, entries)}; "
            "without it, leave this run out too"
        )
    entry = entries[checked.entry]
    if checked.model != entry.model:
        raise UserError(f"{key}.model: must be {entry.model}, as in models.{checked.entry}")
    parts = {field: getattr(entry, field) for field in ("architecture", "training", "sampling")}
    return Run(name=name, **checked.model_dump(), **parts)


def _ensemble(
    name: Any,
    entry: Any,
    runs: Mapping[Any, Run],
    before: Mapping[Any, Ensemble],
    sampling: Sampling,
    where: str,
) -> Ensemble:
    """Check an entry of `ensembles`, whose members are runs or ensembles before it."""
    check_name(name, f"{where}: ensembles")
    key = f"{where}: ensembles.{name}"
    if name in runs:
        raise UserError(f"{key}: there is a run of this name; choose another")
    check_mapping(entry, key)
    fields = [field for field in Ensemble.model_fields if field != "name"]
    check_keys(entry, fields, where, f"ensembles.{name}.")
    own = _sampling(entry, key, sampling)
    checked = validate(Ensemble, {**entry, "name": name, "sampling": own}, key)
    able = [*(other for other, run in runs.items() if run.text == "train"), *before]
    for place, member in zip(("first", "second"), checked.members, strict=True):
        if member not in able:
            raise UserError(
                f"{key}.{place}: {unknown('run', member, able)}; without it, leave {name} out too"
            )
    if checked.first == checked.second:
        raise UserError(f"{key}.second: {checked.second} is the first member already")
    return checked


def _check_dynamic(settings: Params, where: str) -> None:
    """Refuse dynamic evaluation of what is not there, or has no weights to move."""
    able = [
        *(
            name
            for name, run in settings.runs.items()
            if run.text == "train" and architectures.sizes(run.model).by_steps
        ),
        *settings.ensembles,
    ]
    for name in settings.dynamic:
        if name not in able:
            raise UserError(
                f"{where}: dynamic.{name}: {unknown('run', name, able)}; "
                "without it, leave this out too"
            )


def _sampling(entry: dict[str, Any], key: str, sampling: Sampling) -> Sampling:
    """Return an entry's own sampling; what it leaves out is taken from the one given."""
    check_mapping(entry["sampling"], f"{key}.sampling")
    return validate(Sampling, {**sampling.model_dump(), **entry["sampling"]}, f"{key}.sampling")


def override(sampling: Sampling, given: Mapping[str, Any]) -> Sampling:
    """Return sampling parameters with those changed that a command line gave (are not None).

    Raises:
        UserError: a value is impossible; the message names the option.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    return validate(
        Sampling,
        {**sampling.model_dump(), **changes},
        lambda key: f"--{key.replace('_', '-')}" if key else "sampling",
    )


def request(values: Mapping[str, Any]) -> Sampling:
    """Check what a call of a served model asks for.

    Raises:
        UserError: a value is impossible; the message begins with its key.
    """
    return validate(Sampling, values, str)


def check_sizes(sizes: Any, locate: Any, key: str = "") -> None:
    """Refuse what no model is as large as.

    Args:
        sizes: of an architecture, and of those in it.
        locate: turns a key into where the user wrote it.
        key: of `sizes`, if they are one number.

    Raises:
        UserError: the first size that is too large.
    """
    if isinstance(sizes, dict):
        for inner, value in sizes.items():
            check_sizes(value, locate, inner)
    elif isinstance(sizes, list):
        for value in sizes:
            check_sizes(value, locate, key)
    elif type(sizes) is int and sizes > (largest := LARGEST.get(key, 1 << 20)):
        raise UserError(f"{locate(key)}: must be at most {largest:,}, not {sizes}")
