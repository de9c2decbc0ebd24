"""params.yaml as typed objects: read once, checked whole, before torch is imported.

Every message names the file, the key, what is wrong and what is allowed, in one line.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from charlm import models
from charlm.config.schema import (
    Positive,
    PositiveRate,
    Rate,
    Schema,
    Share,
)
from charlm.config.training import Training
from charlm.errors import UserError

AnySchema = TypeVar("AnySchema", bound=Schema)
AnyEntry = TypeVar("AnyEntry", bound=Schema)
SCALES = ("smoke", "quick", "full")
LONGEST = 1000
"""Characters of a message."""

LONGEST_TEXT, MOST_DRAWN = 1_000_000, 10_000_000
"""Characters of one drawn text, and of all that are drawn at once with what they go on from."""

LARGEST = {"layers": 1000}
"""What a size of an architecture can be, at most; 2^20 if it is not here."""

NAME = "[a-z][a-z0-9_]{0,63}"
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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


class Seeds(Schema):
    """All randomness of the pipeline."""

    initialisation: Seed
    training: Seed
    sampling: Seed


class Sampling(Schema):
    """How text is drawn."""

    prompt: Annotated[str, Field(min_length=1)] | None
    length: Annotated[int, Field(ge=1, le=LONGEST_TEXT)]
    temperature: Rate
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    context: Any
    samples: Annotated[int, Field(ge=1, le=1000)]

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


class Request(Sampling):
    """What one call of a served model asks for."""

    seed: Seed


class Reproduction(Schema):
    """An entry of `models` once more, trained as its document did: on all of the text."""

    entry: str
    model: str
    trained_on: Literal["all"]


class Repeat(Schema):
    """An entry of `models` once more, with another seed for fresh weights and for training."""

    entry: str
    model: str
    seed: Seed


class Entry(Schema):
    """A model of the zoo; `model` is its architecture."""

    name: str
    model: str
    trained_on: Literal["train", "all"]
    architecture: dict[str, Any]
    sampling: Sampling


class Trained(Entry):
    """A model that is trained by steps, at one scale."""

    scale: str
    training: Training


class Counting(Entry):
    """A model that counts the training split once.

    Attributes:
        block: characters a window of the windowed evaluation.
    """

    block: Positive


class Mixed(Entry):
    """A model made of two others.

    Attributes:
        first: a member, an entry of models, residuals, counted or, before this one, mixtures.
        second: the other member.
        mixing: how probabilities are put together; best: what validation likes better.
        block: characters a window of the windowed evaluation.
    """

    first: str
    second: str
    mixing: Literal["linear", "geometric", "best"]
    block: Positive

    @property
    def members(self) -> tuple[str, str]:
        """The names of both."""
        return self.first, self.second


class Adaptive(Schema):
    """How a model learns from the characters that it has been scored on; units in params.yaml."""

    every: Positive
    learning_rate: PositiveRate
    epsilon: PositiveRate
    decay: Rate
    statistics: Positive
    recount: Positive


class Params(Schema):
    """The whole file; `models` and `residuals` hold each entry at the scale in use."""

    scale: Literal["smoke", "quick", "full"]
    corpus: Corpus
    split: Split
    entropy: Entropy
    seeds: Seeds
    processes: Positive
    checkpoint_every: PositiveRate
    passage: Annotated[int, Field(ge=1, le=5000)]
    sampling: Sampling
    models: dict[str, Trained]
    residuals: dict[str, Trained]
    counted: dict[str, Counting]
    mixtures: dict[str, Mixed]
    adaptive: dict[str, Adaptive]
    reproductions: dict[str, Reproduction]
    repeats: dict[str, Repeat]

    @property
    def by_steps(self) -> dict[str, Trained]:
        """What of the zoo is trained by steps, by name."""
        return self.models | self.residuals

    @property
    def ranked(self) -> dict[str, Entry]:
        """The zoo, by name: everything that has not seen the holdout."""
        return {**self.by_steps, **self.counted, **self.mixtures}

    @property
    def trained(self) -> dict[str, Trained]:
        """Everything that is trained by steps, by name: the zoo's first, then the reproductions."""
        return self.by_steps | {
            name: self.models[copied.entry].model_copy(
                update={"name": name, "trained_on": copied.trained_on}
            )
            for name, copied in self.reproductions.items()
        }

    @property
    def repeated(self) -> dict[str, Trained]:
        """The entries of `models` with other seeds, by name of the repeat."""
        return {
            name: self.models[copied.entry].model_copy(update={"name": name})
            for name, copied in self.repeats.items()
        }

    @property
    def entries(self) -> dict[str, Entry]:
        """Every model there is, by name."""
        return {**self.ranked, **self.trained, **self.repeated}

    def seeds_of(self, name: str) -> Seeds:
        """Return the seeds that a model is trained with."""
        if name not in self.repeats:
            return self.seeds
        seed = self.repeats[name].seed
        return self.seeds.model_copy(update={"initialisation": seed, "training": seed})

    def entry(self, name: str) -> Entry:
        """Return any model's entry.

        Raises:
            UserError: params.yaml has no such model.
        """
        return _named("model", name, self.entries)

    def model(self, name: str) -> Trained:
        """Return the entry of a model that is trained by steps.

        Raises:
            UserError: params.yaml has no such model.
        """
        return _named("model", name, {**self.trained, **self.repeated})

    def counts(self, name: str) -> Counting:
        """Return the entry of a model that counts.

        Raises:
            UserError: params.yaml has no such model.
        """
        return _named("counted model", name, self.counted)

    def mixed(self, name: str) -> Mixed:
        """Return the entry of a mixture.

        Raises:
            UserError: params.yaml has no such mixture.
        """
        return _named("mixture", name, self.mixtures)

    def adapts(self, name: str) -> Adaptive:
        """Return how a model adapts.

        Raises:
            UserError: `adaptive` in params.yaml has no such model.
        """
        return _named("adaptive model", name, self.adaptive)


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Args:
        path: relative to the working directory: a queued experiment has its own copy.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no {path} in {Path.cwd()}: run this in the project's folder") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    return _load(text, path)


@functools.lru_cache(maxsize=1)  # a stage that runs others asks for it again
def _load(text: str, path: Path) -> Params:
    try:
        # YAML 1.2, as DVC reads it: 1e-3 is a number and a repeated key is an error.
        content = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse(content, str(path))


def parse(content: Any, where: str) -> Params:
    """Check the content of params.yaml; `where` is the file's name for messages.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    try:
        return _parse(content, where)
    except UserError as error:
        # Keys and values may hold anything, and any amount of it.
        line = " ".join(str(error).split())
        raise UserError(line if len(line) <= LONGEST else f"{line[:LONGEST]} ...") from None


def _parse(content: Any, where: str) -> Params:
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping with {', '.join(Params.model_fields)}")
    _check_keys(content, Params.model_fields, where, "")
    if not isinstance(content["models"], dict) or not content["models"]:
        raise UserError(f"{where}: models: must be a mapping with at least one entry")
    for section in ("residuals", "counted", "mixtures"):
        if not isinstance(content[section], dict):
            raise UserError(f"{where}: {section}: must be a mapping ({{}} if empty)")
    sampling = _validate(
        Sampling, content["sampling"], lambda key: f"{where}: sampling{'.' * bool(key)}{key}"
    )
    # Every scale of every model is checked, so that a mistake shows before it is needed.
    chosen = content["scale"] if content["scale"] in SCALES else "quick"
    by_steps: dict[str, dict[Any, Trained]] = {}
    for section in ("models", "residuals"):
        by_steps[section] = {}
        for name, entry in content[section].items():
            at_scale = {
                scale: _entry(name, entry, section, scale, sampling, where) for scale in SCALES
            }
            by_steps[section][name] = at_scale[chosen]
    settings = _validate(
        Params,
        {
            **content,
            **by_steps,
            "counted": {
                name: _counting(name, entry, sampling, where)
                for name, entry in content["counted"].items()
            },
            "mixtures": {
                name: _mixed(name, entry, sampling, where)
                for name, entry in content["mixtures"].items()
            },
        },
        lambda key: f"{where}: {key}",
    )
    for section in by_steps:
        for name, trained in getattr(settings, section).items():
            batch = trained.training.batch
            if batch is not None and batch < settings.processes:
                raise UserError(
                    f"{where}: processes: {settings.processes} processes cannot share batches of "
                    f"{batch} sequences ({section}.{name}.{trained.scale})"
                )
    known = list(settings.models)
    for section in ("residuals", "counted", "mixtures"):
        for name, entry in getattr(settings, section).items():
            key = f"{where}: {section}.{name}"
            if name in known:
                raise UserError(f"{key}: the zoo has an entry of this name already")
            if isinstance(entry, Mixed):
                _check_members(entry, known, key)
            known.append(name)
    for name in settings.adaptive:
        # Counts have no gradients.
        able = [*settings.by_steps, *settings.mixtures]
        if name not in able:
            raise UserError(
                f"{where}: adaptive.{name}: {_unknown('model', name, able)}; "
                "without it, leave this out too"
            )
    _check_copies(settings, where)
    return settings


def override(sampling: Sampling, given: Mapping[str, Any]) -> Sampling:
    """Return sampling parameters with those changed that a command line gave (are not None).

    Raises:
        UserError: a value is impossible; the message names the option.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    return _validate(
        Sampling,
        {**sampling.model_dump(), **changes},
        lambda key: f"--{key.replace('_', '-')}" if key else "sampling",
    )


def request(values: Mapping[str, Any]) -> Request:
    """Check what a call of a served model asks for.

    Raises:
        UserError: a value is impossible; the message begins with its key.
    """
    return _validate(Request, values, str)


def check_sizes(sizes: Any, locate: Callable[[str], str], key: str = "") -> None:
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


def _check_name(name: Any, where: str) -> None:
    """Refuse a name that could not be a folder, a key and a stage."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(
            f"{where}: '{name}' cannot be a name (small letters, digits and _, at most 64)"
        )


def _check_copies(settings: Params, where: str) -> None:
    """Refuse a reproduction or a repeat of what is not there, or under a name that is taken."""
    taken = list(settings.ranked)
    for section in ("reproductions", "repeats"):
        for name, copied in getattr(settings, section).items():
            key = f"{where}: {section}.{name}"
            _check_name(name, f"{where}: {section}")
            if name in taken:
                raise UserError(f"{key}: the zoo has an entry of this name; choose another")
            if copied.entry not in settings.models:
                raise UserError(
                    f"{key}.entry: {_unknown('model', copied.entry, settings.models)}; "
                    "without it, leave this out too"
                )
            architecture = settings.models[copied.entry].model
            if copied.model != architecture:
                raise UserError(f"{key}.model: must be {architecture}, as in models.{copied.entry}")
            taken.append(name)


def _check_members(entry: Mixed, known: list[str], key: str) -> None:
    """Refuse members that are not there, or not there yet, and one member twice."""
    for place, member in zip(("first", "second"), entry.members, strict=True):
        if member not in known:
            raise UserError(
                f"{key}.{place}: {_unknown('model', member, known)}; "
                f"without it, leave {entry.name} out too"
            )
    if entry.first == entry.second:
        raise UserError(f"{key}.second: {entry.second} is the first member already")


def _described(
    name: Any, entry: Any, section: str, parts: Iterable[str], where: str
) -> type[Schema]:
    """Check what an entry of `section` is made of and return its architecture's schema."""
    key = f"{section}.{name}"
    _check_name(name, f"{where}: {section}")
    if not isinstance(entry, dict):
        raise UserError(f"{where}: {key}: must be a mapping")
    _check_keys(entry, parts, where, f"{key}.")
    allowed = [model for model in models.names() if models.section(model) == section]
    if entry["model"] not in allowed:
        raise UserError(f"{where}: {key}.model: {_unknown('model', entry['model'], allowed)}")
    return models.architecture(entry["model"])


def _drawn(entry: dict[str, Any], key: str, sampling: Sampling, where: str) -> Sampling:
    """Return an entry's own sampling; what it leaves out is taken from the one given."""
    drawn = entry["sampling"]
    if not isinstance(drawn, dict):
        raise UserError(f"{where}: {key}.sampling: must be a mapping ({{}} if empty)")
    return _validate(
        Sampling,
        {**sampling.model_dump(), **drawn},
        lambda setting: f"{where}: {key}.sampling{'.' * bool(setting)}{setting}",
    )


def _counting(name: Any, entry: Any, sampling: Sampling, where: str) -> Counting:
    """Check an entry of `counted`."""
    key = f"counted.{name}"
    parts = ("model", "architecture", "block", "sampling")
    described = _described(name, entry, "counted", parts, where)
    if not isinstance(entry["architecture"], dict):
        raise UserError(f"{where}: {key}.architecture: must be a mapping ({{}} if empty)")
    _validate(
        described,
        entry["architecture"],
        lambda setting: f"{where}: {key}.architecture{'.' * bool(setting)}{setting}",
    )
    content = {
        **entry,
        "name": name,
        "trained_on": "train",
        "sampling": _drawn(entry, key, sampling, where),
    }
    return _validate(Counting, content, lambda setting: f"{where}: {key}.{setting}")


def _mixed(name: Any, entry: Any, sampling: Sampling, where: str) -> Mixed:
    """Check an entry of `mixtures`, but not whether its members are there."""
    key = f"mixtures.{name}"
    parts = ("model", "first", "second", "mixing", "block", "sampling")
    _described(name, entry, "mixtures", parts, where)
    content = {
        **entry,
        "name": name,
        "trained_on": "train",
        "architecture": {},
        "sampling": _drawn(entry, key, sampling, where),
    }
    return _validate(Mixed, content, lambda setting: f"{where}: {key}.{setting}")


def _entry(
    name: Any, entry: Any, section: str, scale: str, sampling: Sampling, where: str
) -> Trained:
    """Join a model's architecture, training and scale sections and check the result.

    A key stands in exactly one of the three, so that what one reads is what one gets.
    """
    key = f"{section}.{name}"
    parts = ("model", "architecture", "training", "sampling", *SCALES)
    described = _described(name, entry, section, parts, where)
    sections = {"architecture": described.model_fields, "training": Training.model_fields}
    home: dict[str, str] = {}
    for part in ("architecture", "training", scale):
        if not isinstance(entry[part], dict):
            raise UserError(f"{where}: {key}.{part}: must be a mapping ({{}} if empty)")
        known = sections.get(part) or (
            [*described.model_fields, *Training.model_fields] if part == scale else []
        )
        for setting in entry[part]:
            if setting not in known:
                raise UserError(f"{where}: {key}.{part}: {_unknown('key', setting, known)}")
            if setting in home:
                raise UserError(
                    f"{where}: {key}.{part}.{setting}: also stands in "
                    f"{key}.{home[setting]}; keep one"
                )
            home[setting] = part
    settings = {s: entry[part][s] for s, part in home.items()}
    for part, fields in sections.items():
        for setting in fields:
            if setting not in settings:
                raise UserError(
                    f"{where}: {key}.{scale}: '{setting}' is missing "
                    f"(it belongs there or in {key}.{part})"
                )

    def locate(setting: str) -> str:
        first = setting.split("[")[0].split(".")[0]
        place = f"{where}: {key}.{home.get(first, scale)}"
        return f"{place}.{setting}" if setting else f"{where}: {key}.{scale}"

    values = {s: settings[s] for s in described.model_fields}
    _validate(described, values, locate)
    check_sizes(values, locate)
    training = _validate(Training, {s: settings[s] for s in Training.model_fields}, locate)
    return Trained(
        name=name,
        model=entry["model"],
        scale=scale,
        trained_on="train",
        architecture=values,
        training=training,
        sampling=_drawn(entry, key, sampling, where),
    )


def _validate(schema: type[AnySchema], values: Any, locate: Callable[[str], str]) -> AnySchema:
    """Build a schema, or say in one line what is wrong with the first bad key.

    Args:
        schema: what to build.
        values: a mapping.
        locate: turns a key inside the schema ("" for the whole) into where the user wrote it.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A misspelled key is missing too, but it is the misspelling that wants mending.
        first = next((of for of in found if of["type"] == "extra_forbidden"), found[0])
        location, message = first["loc"], first["msg"].removeprefix("Value error, ")
        key = ""
        for part in location:
            if isinstance(part, int):
                key += f"[{part}]"
            else:
                key += f".{part}" if key else part
        if first["type"] == "extra_forbidden":
            known = _fields(schema, location[:-1])
            message = _unknown("key", location[-1], known)
        elif first["type"] == "missing":
            message = "missing"
        elif first["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {first['input']!r}"
        raise UserError(f"{locate(key)}: {message}") from None


def _fields(schema: type[Schema], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a location inside a schema."""
    inner: Any = schema
    for part in location:
        if get_origin(inner) is dict:
            inner = get_args(inner)[1]
        else:
            inner = inner.model_fields[str(part)].annotation
    return list(inner.model_fields)


def _check_keys(mapping: Mapping[Any, Any], known: Iterable[str], where: str, prefix: str) -> None:
    """Refuse unknown keys (with the nearest right one) and missing ones."""
    known = list(known)
    for key in mapping:
        if key not in known:
            raise UserError(f"{where}: {prefix}{key}: {_unknown('key', key, known)}")
    for key in known:
        if key not in mapping:
            raise UserError(f"{where}: {prefix}{key}: missing")


def _unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(known) or 'none'}"
    return f"unknown {kind} '{name}' ({hint})"


def _named(kind: str, name: str, known: Mapping[str, AnyEntry]) -> AnyEntry:
    """Return an entry by its name.

    Raises:
        UserError: there is none; the message has the nearest name, or all of them.
    """
    if name not in known:
        raise UserError(_unknown(kind, name, known))
    return known[name]
