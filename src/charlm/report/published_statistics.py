"""The statistics that published figures are of: each finds ours by the protocol of the figure.

A statistic is a function from a line of published.yaml and the evidence to an answer. The evidence
is what this run of the pipeline found, and long runs that were recorded once. Losses are in nats
per character, entropies in bits per character.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.config.messages import named
from charlm.config.params import Params
from charlm.config.schema import Positive, Schema
from charlm.data.vocabulary import Vocabulary
from charlm.files import read_json
from charlm.report.leaderboard import read_curve

if TYPE_CHECKING:
    from torch import Tensor

    from charlm.models.base import LanguageModel
    from charlm.report.published import Figure, Published

RECORDED = Path("benchmarks/published.json")

LONG_RUNS = "python -m benchmarks.published"
"""The command that trains for hours and records what it found."""

LADDER = "charlm ladder"
FOR_GPU = "for a GPU"
OTHER_MACHINE = "another machine"
UNTIMED = "run beside other work: not timed"

SEEDS = 100
"""Samples of a statistic that takes milliseconds: the first is ours, the others give its spread."""


@dataclass(frozen=True)
class Answer:
    """Ours, by the protocol of a figure.

    Attributes:
        ours: the number; None where it was not run.
        spread: standard deviation of a sample of it, 0 if it is exact; None if it was not measured.
        command: what ours comes from.
        remark: what a reader should know beside it.
        full_pass: our loss over every character, in nats, and of which text; None if there is none.
        verdict: where ours is not to be compared.
    """

    ours: float | None = None
    spread: float | None = None
    command: str = "dvc repro"
    remark: str = ""
    full_pass: dict[str, Any] | None = None
    verdict: str = ""


@dataclass(frozen=True)
class LongRun:
    """A training of hours, recorded in benchmarks/published.json.

    Attributes:
        name: of the long run.
        content: what was recorded of it.
    """

    name: str
    content: dict[str, Any]

    @property
    def steps(self) -> int:
        """Steps that it was trained for."""
        return int(self.content["steps"])

    @property
    def unfinished(self) -> bool:
        """Whether it was stopped, so that there is its curve alone."""
        return bool(self.content.get("unfinished"))

    @property
    def curve(self) -> dict[int, dict[str, float]]:
        """The points of its loss curve, by step."""
        return {int(point["step"]): point for point in self.content["curve"]}

    @property
    def sizes(self) -> str:
        """The sizes of its architecture."""
        return in_words(self.content["architecture"])

    @property
    def command(self) -> str:
        """What trains it again."""
        return f"{LONG_RUNS} {self.name}"

    @property
    def full_pass(self) -> dict[str, Any]:
        """Its windowed loss over every character, and of which text."""
        return windowed(self.content["losses"])

    @property
    def machine(self) -> str:
        """What it was trained on."""
        return f"{self.content['machine']}, {self.content['threads']} threads"

    @property
    def time(self) -> str:
        """Its seconds, unless other work ran beside it."""
        shared = self.content["shared"]
        return UNTIMED if shared else f"{self.content['seconds']} s on {self.machine}"


def windowed(losses: dict[str, Any]) -> dict[str, Any]:
    """Return the windowed loss of a run, in nats per character, and of which text.

    Args:
        losses: by protocol and part of the text; a run on all of the text has `seen` alone.
    """
    parts = losses["windowed"]
    text = "seen" if "seen" in parts else "holdout"
    return {"text": text, "nats_per_char": parts[text]["nats_per_char"]}


def in_words(architecture: dict[str, Any]) -> str:
    """Return the sizes of an architecture."""
    return ", ".join(f"{size} {value}" for size, value in architecture.items())


class Evidence:
    """What this run of the pipeline and the recorded long runs found.

    Args:
        settings: params.yaml.
        published: published.yaml.
        encoded: folder of the encoded corpus.
        models: folder of the saved models.
        results: folder with results/RUN.
    """

    def __init__(
        self, settings: Params, published: "Published", encoded: Path, models: Path, results: Path
    ) -> None:
        self.runs, self.published = settings.runs, published
        self.vocabulary = Vocabulary.load(encoded / "vocabulary.json")
        self._encoded, self._models, self._results = encoded, models, results
        orders = read_json(results / "entropy.json")["texts"]["whole"]["orders"]
        self._entropies = {row["order"]: row["estimates"]["plug_in"] for row in orders}
        recorded = read_json(RECORDED) if RECORDED.is_file() else {"spreads": {}, "runs": {}}
        self._long_runs = [LongRun(name, content) for name, content in recorded["runs"].items()]
        self._samples: dict[str, dict[str, list[float]]] = {}
        for spread in recorded["spreads"].values():
            self._samples |= spread["batch_nats"]
        self._training_losses: dict[str, float] = {}

    def entropy(self, order: int, key: str = "bits_per_char") -> float | None:
        """Return a plug-in estimate of the whole text; None if this order was not counted.

        Args:
            order: n of the n-grams.
            key: which of the numbers in entropy.json, in bits per character.
        """
        bits: float | None = self._entropies.get(order, {}).get(key)
        return bits

    def curve(self, name: str) -> dict[int, dict[str, float]]:
        """Return the points of a run's loss curve by step; none if params.yaml lacks the run."""
        rows = read_curve(self._results / name / "curve.csv") if name in self.runs else []
        return {int(row["step"]): row for row in rows}

    def point(self, name: str, step: int) -> dict[str, float] | None:
        """Return a point of a run's loss curve, if the run is trained as its document says."""
        wanted = self.published.trainings.get(name, {}).items()
        if name in self.runs:
            training = self.runs[name].training
            if any(getattr(training, key) != value for key, value in wanted):
                return None
        return self.curve(name).get(step)

    def samples(self, name: str, step: int) -> list[float]:
        """Return the recorded losses of one batch at a step, one a seed, of a run or a long run."""
        return self._samples.get(name, {}).get(str(step), [])

    def long_runs(self, name: str) -> list[LongRun]:
        """Return the long runs of a run of params.yaml."""
        return [run for run in self._long_runs if run.content["run"] == name]

    def full_pass(self, name: str, text: str) -> dict[str, Any]:
        """Return a run's windowed loss over every character, and of which text.

        Args:
            name: of the run.
            text: train or holdout; a run on all of the text is scored on all of it.
        """
        if text == "train" and self.runs[name].text == "train":
            return {"text": "train", "nats_per_char": self._training_loss(name)}
        return windowed(read_json(self._results / name / "metrics.json"))

    def train_N(self) -> "Tensor":
        """Return the ids of the training split."""
        import torch

        from charlm.data import encoding

        return torch.tensor(encoding.load_split(self._encoded, "train"))

    def build(self, name: str, symbols: int) -> "LanguageModel":
        """Return a model of published.yaml with fresh weights.

        Args:
            name: of the model.
            symbols: of the vocabulary.

        Raises:
            UserError: published.yaml has no such model.
        """
        from charlm import models

        model = named("model of published.yaml", name, self.published.models)
        return models.build(model.model, symbols, model.block, model.architecture)

    def _training_loss(self, name: str) -> float:
        import torch

        from charlm import saved_model
        from charlm.evaluation import loss

        if name not in self._training_losses:
            model, config = saved_model.load(self._models / name, torch.device("cpu"))
            nats_N, _ = loss.windowed(model, self.train_N(), config.block)
            self._training_losses[name] = float(nats_N.mean())
        return self._training_losses[name]


def entropy(figure: "Figure", evidence: Evidence) -> Answer:
    """The plug-in entropy of n-grams, per character."""
    return Answer(evidence.entropy(figure.at), 0.0)


def conditional_entropy(figure: "Figure", evidence: Evidence) -> Answer:
    """The plug-in entropy of a character, given so many before it."""
    return Answer(evidence.entropy(figure.at + 1, "conditional_bits_per_char"), 0.0)


def compression_ratio(figure: "Figure", evidence: Evidence) -> Answer:
    """The plug-in entropy of single characters over the bits that store one."""
    bits = evidence.entropy(1)
    remark = "a byte has 8 bits and holds one character here"
    return Answer(None if bits is None else bits / figure.at, 0.0, remark=remark)


def epoch_loss(figure: "Figure", evidence: Evidence) -> Answer:
    """The mean loss of an epoch's training batches, in a long run."""
    return _epoch(figure, evidence, "train_nats")


def validation_batches(figure: "Figure", evidence: Evidence) -> Answer:
    """The mean loss of ten validation batches after an epoch, in a long run."""
    return _epoch(figure, evidence, "ten_batches_nats")


def epoch_ratio(figure: "Figure", evidence: Evidence) -> Answer:
    """As `epoch_loss`, in bits over the 8 bits of a byte."""
    return _ratio(epoch_loss(figure, evidence))


def validation_ratio(figure: "Figure", evidence: Evidence) -> Answer:
    """As `validation_batches`, in bits over the 8 bits of a byte."""
    return _ratio(validation_batches(figure, evidence))


def _epoch(figure: "Figure", evidence: Evidence, column: str) -> Answer:
    """Return a number of a long run after an epoch."""
    for run in evidence.long_runs(figure.entry):
        steps = run.content.get("steps_per_epoch", 0)
        if steps and (point := run.curve.get(figure.at * steps)):
            # The spread of ten batches gives that of one, and so that of an epoch's mean.
            share = math.sqrt(10 / steps) if column == "train_nats" else 1
            return Answer(
                point[column],
                point["ten_batches_sd"] * share,
                run.command,
                "spread over batches alone: one seed was run",
                run.full_pass if figure.at * steps == run.steps else None,
            )
    return Answer(command=LONG_RUNS)


def _ratio(answer: Answer) -> Answer:
    """Return nats as bits over the 8 bits of a byte."""
    if answer.ours is None or answer.spread is None:
        return answer
    unit = 1 / math.log(2) / 8
    return replace(
        answer,
        ours=answer.ours * unit,
        spread=answer.spread * unit,
        remark="the nats in another unit",
        full_pass=None,
    )


def seconds(figure: "Figure", evidence: Evidence) -> Answer:
    """The seconds of an epoch, in a long run of so many epochs."""
    for run in evidence.long_runs(figure.entry):
        if run.unfinished or run.steps != figure.at * run.content.get("steps_per_epoch", 0):
            continue
        # What ran beside other work says nothing of speed.
        if run.content["shared"]:
            return Answer(command=run.command, verdict=UNTIMED)
        mean = run.content["seconds"] / figure.at
        return Answer(mean, None, run.command, run.machine, verdict=OTHER_MACHINE)
    return Answer(command=LONG_RUNS)


def batch_loss(figure: "Figure", evidence: Evidence) -> Answer:
    """The loss of one training batch at a step of this run."""
    samples = evidence.samples(figure.entry, figure.at)
    point = evidence.point(figure.entry, figure.at)
    return Answer(
        point["batch_nats"] if point else None,
        statistics.stdev(samples) if samples else None,
        remark=_described(samples) if samples else "",
        full_pass=evidence.full_pass(figure.entry, "train") if point and figure.at else None,
    )


def fitted_loss(figure: "Figure", evidence: Evidence) -> Answer:
    """The loss of one training batch of a model of unknown sizes: those that fit best."""
    step, name = figure.at, figure.entry
    tried, fitting = _fit(figure, evidence)
    spread = _spread(fitting, step, evidence)
    if point := evidence.point(name, step):
        sizes = in_words(evidence.runs[name].architecture)
        return Answer(point["batch_nats"], spread, remark=sizes)
    for run in fitting:
        if point := run.curve.get(step):
            remark = run.sizes
            if run in tried:
                points = ((other.sizes, other.curve.get(step)) for other in tried)
                found = "; ".join(f"{sizes}: {at['batch_nats']:.4f}" for sizes, at in points if at)
                remark += f", the nearest of those tried ({found})"
            return Answer(point["batch_nats"], spread, run.command, remark)
    return Answer(command=LONG_RUNS, remark=FOR_GPU)


def _fit(figure: "Figure", evidence: Evidence) -> tuple[list[LongRun], list[LongRun]]:
    """Return the long runs of all sizes tried, and those of the sizes nearest to the printed curve.

    The shortest long runs are for trying sizes; where there are longer ones of the same sizes, they
    come behind.
    """
    curve = {
        other.at: float(other.printed)
        for other in evidence.published.figures
        if other.printed
        and (other.document, other.entry, other.statistic)
        == (figure.document, figure.entry, figure.statistic)
    }

    def misfit(run: LongRun) -> float:
        common = curve.keys() & run.curve.keys()
        return sum(abs(run.curve[step]["batch_nats"] - curve[step]) for step in common)

    runs = evidence.long_runs(figure.entry)
    # One that was stopped early says nothing of its sizes.
    fewest = min((run.steps for run in runs if not run.unfinished), default=0)
    tried = [run for run in runs if run.steps == fewest]
    nearest = min(tried, key=misfit, default=None)
    return tried, [run for run in runs if nearest and run.sizes == nearest.sizes]


def _spread(runs: list[LongRun], step: int, evidence: Evidence) -> float | None:
    """Return the spread of one batch over seeds at a step, else over batches there or later."""
    if not runs:
        return None
    if samples := evidence.samples(runs[0].name, step):
        return statistics.stdev(samples)
    points = [run.curve[at] for at in (step, runs[0].steps) for run in runs if at in run.curve]
    return points[0].get("batches_sd")


def last_batch(figure: "Figure", evidence: Evidence) -> Answer:
    """The loss of the last batch of a training of so many steps."""
    step, name = figure.at, figure.entry
    if point := evidence.point(name, step):
        return Answer(point["batch_nats"], full_pass=evidence.full_pass(name, "train"))
    for run in evidence.long_runs(name):
        if run.steps == step and not run.unfinished:
            nats = run.curve[step]["batch_nats"]
            return Answer(nats, None, run.command, run.time, run.full_pass)
    return Answer(command=LONG_RUNS, remark=FOR_GPU)


def untrained_loss(figure: "Figure", evidence: Evidence) -> Answer:
    """The loss of an untrained model on one batch of the training split."""
    import torch
    from torch.nn import functional

    from charlm.data import batches

    train_N, losses = evidence.train_N(), []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = evidence.build(figure.entry, len(evidence.vocabulary))
        generator = torch.Generator().manual_seed(seed)
        batch = next(batches.windows(train_N, figure.at["batch"], figure.at["block"], generator))
        with torch.no_grad():
            logits_BTV, _ = model(batch.inputs_BT)
        nats = functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten())
        losses.append(float(nats))
    return _first_of(losses)


def encoding(figure: "Figure", evidence: Evidence) -> Answer:
    """How many ids of an encoded text are the printed ones."""
    ids = map(str, evidence.vocabulary.encode(figure.at["text"]).tolist())
    pairs = zip(ids, figure.at["ids"].split(", "), strict=False)
    return Answer(float(sum(ours == theirs for ours, theirs in pairs)), 0.0)


def softmax(figure: "Figure", evidence: Evidence) -> Answer:
    """A probability of the softmax example in charlm.ladder, its logits times a factor."""
    import torch

    from charlm.ladder import PUBLISHED_LOGITS

    logits = torch.tensor(PUBLISHED_LOGITS, dtype=torch.float64) * figure.at["factor"]
    probabilities = dict(enumerate(torch.softmax(logits, 0).tolist(), 1))
    return Answer(probabilities.get(figure.at["place"]), 0.0, LADDER)


def score_variance(figure: "Figure", evidence: Evidence) -> Answer:
    """The variance of scaled products of random queries and keys, by charlm.ladder."""
    import torch

    from charlm import ladder

    size, batch, time = (figure.at[name] for name in ("size", "batch", "time"))
    generators = (torch.Generator().manual_seed(seed) for seed in range(SEEDS))
    variances = [ladder.score_variance(size, True, each, batch, time) for each in generators]
    return replace(_first_of(variances), command=LADDER)


def parameter_count(figure: "Figure", evidence: Evidence) -> Answer:
    """The number of parameters of a model with so many symbols."""
    import torch

    with torch.device("meta"):
        return Answer(evidence.build(figure.entry, figure.at).parameter_count, 0.0)


def _first_of(samples: list[float]) -> Answer:
    """Return the first sample, with the spread of the others."""
    first, *others = samples
    return Answer(first, statistics.stdev(others), remark=_described(others))


def _described(samples: list[float]) -> str:
    """Return what is known of a statistic from several seeds."""
    return (
        f"{len(samples)} other seeds: mean {statistics.fmean(samples):.4f}, "
        f"standard deviation {statistics.stdev(samples):.4f}"
    )


class Windows(Schema):
    """`at` of untrained_loss: the shape of a batch."""

    batch: Positive
    block: Positive


class Ids(Schema):
    """`at` of encoding: a text, and its ids with commas between them."""

    text: str
    ids: str


class Place(Schema):
    """`at` of softmax: the factor of the logits; which probability, counted from 1."""

    factor: Positive
    place: Positive


class Scores(Schema):
    """`at` of score_variance: the size of a head, and the shape of its batch."""

    size: Positive
    batch: Positive
    time: Positive


@dataclass(frozen=True)
class Statistic:
    """What a figure can be a figure of.

    Attributes:
        answer: returns ours.
        text: of the figure, with places for its `at` and its `note`.
        at: what the values of its `at` are; None if that is one whole number.
        full_pass: of the loss of a training: the text that a run on the training split is scored on
            beside it, train or holdout.
    """

    answer: "Callable[[Figure, Evidence], Answer]"
    text: str
    at: type[Schema] | None = None
    full_pass: str = ""


STATISTICS = {
    "entropy": Statistic(entropy, "H_{at} / {at}, bits per character"),
    "conditional_entropy": Statistic(conditional_entropy, "H(X | {at} before), bits per character"),
    "compression_ratio": Statistic(compression_ratio, "H_1 / {at}, a compression ratio"),
    "epoch_loss": Statistic(
        epoch_loss, "epoch {at}, mean of its training batches", full_pass="holdout"
    ),
    "validation_batches": Statistic(
        validation_batches, "epoch {at}, ten validation batches", full_pass="holdout"
    ),
    "epoch_ratio": Statistic(epoch_ratio, "epoch {at}, mean of its training batches, bits / 8"),
    "validation_ratio": Statistic(validation_ratio, "epoch {at}, ten validation batches, bits / 8"),
    "seconds": Statistic(seconds, "seconds an epoch ({note})"),
    "batch_loss": Statistic(batch_loss, "step {at:,}, {note}", full_pass="train"),
    "fitted_loss": Statistic(fitted_loss, "step {at:,}, one training batch", full_pass="train"),
    "last_batch": Statistic(last_batch, "{at:,} steps, {note}, last batch", full_pass="train"),
    "untrained_loss": Statistic(
        untrained_loss,
        "untrained, one batch of {at[batch]} x {at[block]}",
        Windows,
    ),
    "encoding": Statistic(encoding, 'ids of "{at[text]}" that are {at[ids]}', Ids),
    "softmax": Statistic(
        softmax,
        "softmax({at[factor]} x its example), place {at[place]}",
        Place,
    ),
    "score_variance": Statistic(
        score_variance,
        "variance of q . k / sqrt({at[size]}), "
        "one draw of {at[batch]} x {at[time]} queries and keys",
        Scores,
    ),
    "parameter_count": Statistic(parameter_count, "parameters with {at} symbols"),
}
