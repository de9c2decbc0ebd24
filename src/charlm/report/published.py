"""Published figures: what documents print about a text, and ours by the same protocol.

The figures are data, one line each in published.yaml. A row repeats the document's own statistic,
such as the loss of one batch of its size at one step. Such a number is a random sample: its
tolerance is two standard deviations of the difference of two samples, plus half a unit of the last
printed digit. `python -m benchmarks.published` measured the deviations: over seeds and batches
where training takes seconds, over batches alone where it takes an hour. Exact figures (counts,
entropies, parameters) have half a unit alone. Losses are in nats per character.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from charlm.config import architectures, params
from charlm.config.messages import check_keys, check_mapping, unknown, validate
from charlm.config.params import Params
from charlm.config.schema import Positive, Schema
from charlm.config.training import Training
from charlm.errors import UserError
from charlm.files import sha256
from charlm.report.published_statistics import STATISTICS, Answer, Evidence

FIGURES = Path(__file__).with_name("published.yaml")

REPRODUCED, DIFFERS = "reproduced", "not reproduced"
NOT_RUN = "not run at the published training"
UNMEASURED = "spread not measured"
NO_FIGURE = "no figure printed"


class Figure(Schema):
    """A line of published.yaml; its head explains the keys."""

    document: str
    entry: str
    statistic: str
    at: Any
    printed: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] | None
    note: str = ""
    remark: str = ""


class Model(Schema):
    """A model that a statistic builds; the words are those of params.yaml."""

    model: str
    block: Positive
    architecture: dict[str, Any]


class Compressor(Schema):
    """A compressor that was run outside of the pipeline; nats per character, None not measured."""

    name: str
    validation: float | None
    test: float | None
    holdout: float


class Published(Schema):
    """Content of published.yaml."""

    corpus_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    documents: dict[str, str]
    literature: dict[str, float]
    literature_remark: str
    compressors: list[Compressor]
    compressors_remark: str
    models: dict[str, Model]
    trainings: dict[str, dict[str, Any]]
    figures: list[Figure]


def table(
    settings: Params, corpus: Path, encoded: Path, models: Path, results: Path
) -> dict[str, Any] | None:
    """Return reports/published.json: every figure with ours and a verdict.

    Args:
        settings: params.yaml.
        corpus: the text.
        encoded: folder of the encoded corpus.
        models: folder of the saved models.
        results: folder with results/RUN.

    Returns:
        `rows`, their number by verdict (`verdicts`), titles of `documents`, entropies of English in
        the `literature` with a remark, and what the runs of this pipeline reached (`this_run`).
        None if there is no published.yaml, or it is about another text.

    Raises:
        UserError: published.yaml is wrong, or a file of the pipeline is missing or damaged.
    """
    if not FIGURES.is_file():
        return None
    published = _load(FIGURES)
    if sha256(corpus) != published.corpus_sha256:
        return None
    evidence = Evidence(settings, published, encoded, models, results)
    rows = [_row(figure, evidence) for figure in published.figures]
    return {
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "documents": published.documents,
        "literature": published.literature,
        "literature_remark": published.literature_remark,
        "compressors": [row.model_dump() for row in published.compressors],
        "compressors_remark": published.compressors_remark,
        "rows": rows,
        "this_run": _this_run(evidence),
    }


def _row(figure: Figure, evidence: Evidence) -> dict[str, Any]:
    """Return the row of a figure."""
    statistic = STATISTICS[figure.statistic]
    answer = statistic.answer(figure, evidence)
    tolerance, verdict = judge(figure.printed, answer)
    printed = None if figure.printed is None else float(figure.printed)
    return {
        "document": figure.document,
        "entry": figure.entry,
        "figure": statistic.text.format(at=figure.at, note=figure.note),
        "published": printed,
        "ours": answer.ours,
        "difference": None if printed is None or answer.ours is None else answer.ours - printed,
        "tolerance": tolerance,
        "verdict": verdict,
        "full_pass": answer.full_pass,
        "evidence": answer.command,
        "remark": "; ".join(filter(None, (figure.remark, answer.remark))),
    }


def judge(printed: str | None, answer: Answer) -> tuple[float | None, str]:
    """Return how far two samples of a figure may differ, and whether they do.

    Args:
        printed: the number with the digits that the document prints; None if it prints none.
        answer: ours.

    Returns:
        the tolerance, None where nothing is compared; and the verdict.
    """
    if answer.verdict:
        return None, answer.verdict
    if answer.ours is None:
        return None, NOT_RUN
    if printed is None:
        return None, NO_FIGURE
    if answer.spread is None:
        return None, UNMEASURED
    # Two samples lie at most two standard deviations of their difference apart, 19 times in 20.
    tolerance = half_unit(printed) + 2 * math.sqrt(2) * answer.spread
    # Printed digits are decimal fractions: half a unit may come out a rounding error larger.
    met = abs(answer.ours - float(printed)) <= tolerance + 1e-9
    return tolerance, REPRODUCED if met else DIFFERS


def half_unit(printed: str) -> float:
    """Return half a unit of the last digit of a printed number.

    >>> half_unit("25.36"), half_unit("325181")
    (0.005, 0.5)
    """
    return 0.5 / float(10 ** len(printed.partition(".")[2]))


def _this_run(evidence: Evidence) -> dict[str, Any]:
    """Return what each run reached that documents print losses of."""
    texts: dict[str, str] = {}
    for figure in evidence.published.figures:
        if text := STATISTICS[figure.statistic].full_pass:
            texts.setdefault(figure.entry, text)
    return {
        name: {
            "text": run.text,
            "steps": max(evidence.curve(name), default=0),
            "full_pass": evidence.full_pass(name, texts[name]),
        }
        for name, run in evidence.runs.items()
        if name in texts
    }


def _load(path: Path) -> Published:
    """Read and check published.yaml."""
    where = path.name
    content = params.content(path.read_text(encoding="utf-8"), where)
    check_mapping(content, where)
    check_keys(content, Published.model_fields, where, "")
    if not isinstance(content["figures"], list):
        raise UserError(f"{where}: figures: must be a list")
    figures = [
        validate(Figure, line, f"{where}: figures[{place}]")
        for place, line in enumerate(content["figures"])
    ]
    published = validate(Published, {**content, "figures": figures}, where)
    for place, figure in enumerate(figures):
        _check_figure(figure, published, f"{where}: figures[{place}]")
    for name, model in published.models.items():
        key = f"{where}: models.{name}"
        validate(architectures.sizes(model.model), model.architecture, f"{key}.architecture")
    for name, training in published.trainings.items():
        for key in training:
            if key not in Training.model_fields:
                problem = unknown("key", key, Training.model_fields)
                raise UserError(f"{where}: trainings.{name}: {problem}")
    return published


def _check_figure(figure: Figure, published: Published, key: str) -> None:
    """Refuse an unknown document or statistic, and what the statistic cannot read."""
    for kind, name, known in (
        ("document", figure.document, published.documents),
        ("statistic", figure.statistic, STATISTICS),
    ):
        if name not in known:
            raise UserError(f"{key}.{kind}: {unknown(kind, name, known)}")
    statistic = STATISTICS[figure.statistic]
    if statistic.at:
        validate(statistic.at, figure.at, f"{key}.at")
    elif type(figure.at) is not int:
        raise UserError(f"{key}.at: must be a whole number, not {figure.at!r}")
    if ("{note}" in statistic.text) != bool(figure.note):
        problem = "has none" if figure.note else "needs one"
        raise UserError(f"{key}.note: {figure.statistic} {problem}")
