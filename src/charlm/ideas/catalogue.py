"""ideas/ideas.yaml: what is compared with what, and the configurations that follow from it.

An idea changes one thing of its base, which is another idea; an idea without a base is where a
comparison begins. What is to be trained is written to ideas/params.json, for DVC: a configuration
that two ideas share stands there once.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from charlm.config import architectures, params
from charlm.config.messages import check_name, named, validate
from charlm.config.params import Dynamic, Run
from charlm.config.schema import Schema
from charlm.errors import UserError

FILE = Path("ideas/ideas.yaml")
RATES = (1 / 3, 1.0, 3.0)
"""Factors of the learning rate that each side tries."""

SMOKE = {"steps": 10, "warmup": 0, "validate_every": 5, "validation_characters": 512}
SMOKE_TARGETS = 1500
"""At scale smoke, everything runs and nothing is learned."""

Families = Literal["counting", "characters", "attention", "recurrence", "learning", "together"]
Text = Annotated[str, Field(min_length=1)]


class Idea(Schema):
    """One entry of the file.

    Attributes:
        family: which part of the report it stands in.
        title: in a few words.
        answer: what the figures say, once they are known.
        source: where it comes from.
        base: the idea that it changes; null begins a comparison.
        change: sizes and training keys of params.yaml with their values; `entry` takes another
            entry of `models`, and then nothing of the base.
        ensemble: two ideas, put together.
        mixing: of an ensemble.
        dynamic: how the base learns from the holdout, as in `dynamic` of params.yaml.
    """

    family: Families
    title: Text
    answer: Text | None = None
    source: Text
    base: Text | None = None
    change: dict[str, Any] | None = None
    ensemble: Annotated[list[Text], Field(min_length=2, max_length=2)] | None = None
    mixing: Literal["linear", "geometric"] = "linear"
    dynamic: Dynamic | None = None


class Content(Schema):
    """The whole file."""

    ladders: dict[Families, Annotated[list[Text], Field(min_length=1)]]
    ideas: dict[str, Idea]


@dataclass(frozen=True)
class Setting:
    """What an idea is trained with.

    Attributes:
        entry: of `models` in params.yaml.
        changes: of its sizes and its training.
    """

    entry: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """The ideas, checked.

    Attributes:
        content: of the file.
        settings: of each idea that is trained.
        runs: the same, checked by params.yaml's own rules.
        names: of the side that stands for each idea; of two that are the same, the first one's.
        raw: content of params.yaml.
    """

    content: Content
    settings: dict[str, Setting]
    runs: dict[str, Run]
    names: dict[str, str]
    raw: dict[str, Any]

    def needed(self, wanted: tuple[str, ...]) -> list[str]:
        """Return ideas with what each is compared with and made of, in the order of the file.

        Args:
            wanted: names of ideas or of families; none means all.

        Raises:
            UserError: there is no such idea.
        """
        ideas = self.content.ideas
        if not wanted:
            return list(ideas)
        found: set[str] = set()
        for name in wanted:
            of_family = [other for other, idea in ideas.items() if idea.family == name]
            if not of_family:
                named("idea", name, ideas)
            found |= {*(of_family or [name])}
        found |= {base for name in found if (base := ideas[name].base)}
        for name in list(found):
            idea = ideas[name]
            found |= {*(idea.ensemble or [])} | ({str(idea.base)} if idea.dynamic else set())
        return [name for name in ideas if name in found]

    def sides(self, ideas: list[str]) -> set[str]:
        """Return the names of what is measured for these ideas."""
        return {self.names[name] for name in ideas}

    def stages(self, seeds: int, scale: str) -> dict[str, dict[str, Any]]:
        """Return the content of ideas/params.json: what DVC runs for all ideas.

        Args:
            seeds: how many, from 1.
            scale: quick, or smoke.
        """
        targets = SMOKE_TARGETS if scale == "smoke" else None
        described = [*self.content.ideas.items()]
        kept = {member for _, idea in described for member in idea.ensemble or []}
        kept |= {idea.base for _, idea in described if idea.dynamic and idea.base}
        kept = {self.names[name] for name in kept}
        sides: dict[str, Any] = {}
        ensembles: dict[str, Any] = {}
        learning: dict[str, Any] = {}
        for name, idea in described:
            if idea.ensemble:
                first, second = (self.names[member] for member in idea.ensemble)
                ensembles[name] = {"first": first, "second": second, "mixing": idea.mixing}
                ensembles[name]["targets"] = targets
            elif idea.dynamic and idea.base:
                step = idea.dynamic.model_dump()
                learning[name] = {"model": self.names[idea.base], "step": step, "targets": targets}
            elif self.names[name] == name:
                run = self.runs[name]
                by_steps = architectures.sizes(run.model).by_steps
                training = run.training.model_dump()
                if by_steps and scale == "smoke":
                    training |= SMOKE
                sides[name] = {
                    "model": run.model,
                    "architecture": dict(run.architecture),
                    "training": training,
                    "seeds": list(range(1, seeds + 1)) if by_steps else [1],
                    "rates": list(RATES) if by_steps else [],
                    "keep": name in kept,
                    "targets": targets,
                }
        return {"sides": sides, "ensembles": ensembles, "dynamic": learning}

    def shares(self, *names: str) -> bool:
        """Return whether one of these ideas is an ensemble of the seeds of one side."""
        ensembles = [self.content.ideas[name].ensemble for name in names]
        return any(
            len({self.names[member] for member in members}) == 1 for members in ensembles if members
        )

    def override(self, name: str) -> str:
        """Return the command that runs an idea as an experiment; empty for a combination."""
        if name not in self.settings:
            return ""
        setting = self.settings[name]
        entry = self.raw["models"][setting.entry]
        words = []
        for key, value in setting.changes.items():
            place = place_of(entry, key)
            plus = "" if key in entry[place] else "++"
            words.append(f"-S {plus}models.{setting.entry}.{place}.{key}={as_yaml(value)}")
        return " ".join(["dvc exp run", *words, f"evaluate@{setting.entry}"])


def as_yaml(value: Any) -> str:
    """Return a value as params.yaml and DVC have it, without blanks.

    >>> as_yaml(1.0), as_yaml(True), as_yaml(None), as_yaml([0.5, 0.9]), as_yaml("gelu")
    ('1.0', 'true', 'null', '[0.5,0.9]', 'gelu')
    """
    return json.dumps(value).replace('"', "").replace(" ", "")


def place_of(entry: dict[str, Any], key: str) -> str:
    """Return the part of an entry of params.yaml that a key stands in, or belongs to."""
    for part in ("architecture", "training", "quick"):
        if key in entry[part]:
            return part
    return "quick"


def load(file: Path = FILE) -> Catalogue:
    """Read and check the ideas.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    raw = params.read(Path("params.yaml"))
    params.parse(raw, "params.yaml")  # says what is wrong with it
    content: Content = validate(Content, params.read(file), str(file))
    settings: dict[str, Setting] = {}
    runs: dict[str, Run] = {}
    names: dict[str, str] = {}
    known: dict[str, str] = {}
    for name, idea in content.ideas.items():
        check_name(name, f"{file}: ideas")
        where = f"{file}: ideas.{name}"
        for other in (*([idea.base] if idea.base else []), *(idea.ensemble or [])):
            if other not in names:
                raise UserError(f"{where}: '{other}' is no idea above it")
        ways = [way for way in ("change", "ensemble", "dynamic") if getattr(idea, way) is not None]
        if len(ways) != 1:
            raise UserError(f"{where}: needs exactly one of change, ensemble and dynamic")
        names[name] = name
        if idea.change is not None:
            settings[name] = _setting(idea, settings, where)
            runs[name] = _run(settings[name], raw, where)
            described = runs[name].model_dump(exclude={"name", "entry", "sampling"})
            names[name] = known.setdefault(json.dumps(described, sort_keys=True), name)
        elif idea.base is None or (idea.dynamic and not _by_steps(idea.base, runs)):
            raise UserError(f"{where}: base must be an idea that is trained by steps")
        for member in idea.ensemble or []:
            if member not in settings:
                raise UserError(f"{where}: '{member}' is no idea that is trained by itself")
    for family, rungs in content.ladders.items():
        for before, rung in zip([None, *rungs], rungs, strict=False):
            if rung not in names or content.ideas[rung].base != before:
                raise UserError(
                    f"{file}: ladders.{family}: {rung} must be an idea whose base is "
                    f"{before or 'null'}"
                )
    return Catalogue(content, settings, runs, names, raw)


def _by_steps(name: str, runs: dict[str, Run]) -> bool:
    return name in runs and architectures.sizes(runs[name].model).by_steps


def _setting(idea: Idea, settings: dict[str, Setting], where: str) -> Setting:
    change = dict(idea.change or {})
    if "entry" in change:
        return Setting(str(change.pop("entry")), change)
    if idea.base is None:
        raise UserError(f"{where}: without base, change needs entry (of models in params.yaml)")
    if idea.base not in settings:
        raise UserError(f"{where}: base must be an idea that is trained")
    before = settings[idea.base]
    return Setting(before.entry, {**before.changes, **change})


def _run(setting: Setting, raw: dict[str, Any], where: str) -> Run:
    """Check a setting by the rules of params.yaml."""
    entry = copy.deepcopy(named("entry of models", setting.entry, raw["models"]))
    for key, value in setting.changes.items():
        entry[place_of(entry, key)][key] = value
    line = {"entry": setting.entry, "model": entry["model"], "text": "train", "seed": 1}
    alone = {
        "scale": "quick",
        "models": {setting.entry: entry},
        "runs": {"idea": line},
        "ensembles": {},
        "dynamic": {},
        "processes": 1,
    }
    return params.parse(raw | alone, where).runs["idea"]
