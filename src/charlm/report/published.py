"""The table of sources: every figure that five documents print, and ours by the same protocol.

A row repeats the document's own statistic, such as the loss of one batch of its size at one step.
Such a number is a draw: its tolerance is two standard deviations of the difference of two draws, as
measured by `python -m benchmarks.sources` (over seeds and batches where training takes seconds,
over batches alone where it takes an hour), plus half a unit of the last printed digit. Exact
figures (counts, entropies, parameters) have only the latter. Losses are in nats per character.

Documents: A entropy notebook and ShakeLSTM; B LMNet; C perceptron to MLP; D bigram to
self-attention; E RNN and LSTM from scratch.
"""

import csv
import hashlib
import math
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from charlm.config.params import Params, Trained
from charlm.errors import UserError
from charlm.files import read_json

CORPUS_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
"""Of tiny Shakespeare, which all figures but document E's own are of."""

REPRODUCED, DIFFERS = "reproduced", "not reproduced"
NOT_RUN = "not run at the published budget"
UNMEASURED = "spread not measured"
OTHER_CORPUS = "another corpus"
NO_FIGURE = "no figure printed"
OTHER_MACHINE = "another machine"
UNTIMED = "run beside other work: not timed"

ENTROPIES = {1: "4.7794", 2: "4.1588", 3: "3.6899", 4: "3.3077"}
CONDITIONAL = {1: "3.5383", 2: "2.7520", 3: "2.1610", 4: "1.7672"}
COMPRESSION = "0.5974"
SHAKE_TRAIN = {
    1: "2.6143", 2: "2.0109", 3: "1.8310", 4: "1.7267", 5: "1.6684", 6: "1.6146", 7: "1.5806",
    8: "1.5463", 9: "1.5213", 20: "1.38",
}  # fmt: skip
SHAKE_VALIDATION = {
    1: "2.0554", 2: "1.8814", 3: "1.7893", 4: "1.7121", 5: "1.6824", 6: "1.6510", 7: "1.6355",
    8: "1.5964", 20: "1.50",
}  # fmt: skip
SHAKE_BITS_BY_8 = {1: ("0.4715", "0.3707"), 8: ("0.2789", "0.2879")}
EPOCH = 100
LMNET = (
    "4.1738", "1.8172", "1.6056", "1.4905", "1.4199", "1.3855", "1.3280", "1.3207", "1.3075",
    "1.2774", "1.2612", "1.2214", "1.2395", "1.2026", "1.1993", "1.1891", "1.1983", "1.1793",
    "1.1513", "1.1721",
)  # fmt: skip
LMNET_EVERY = 500
PERCEPTRONS = {
    "perceptron_full_batch_all": {0: "5.2003", 10: "5.1941"},
    "perceptron_all": {0: "4.80", 9000: "3.38"},
    "mlp_all": {0: "25.36", 9000: "2.84"},
    "mlp_normalized_all": {0: "4.17", 9000: "2.90"},
}
BIGRAM_UNTRAINED, BIGRAM_TRAINED = "4.9098", "2.4713"
GREETING, GREETING_IDS = "hii there!", [46, 47, 47, 1, 58, 46, 43, 56, 43, 2]
SOFTMAX = {
    1: ("0.1925", "0.1426", "0.2351", "0.1426", "0.2872"),
    8: ("0.0326", "0.0030", "0.1615", "0.0030", "0.8000"),
}
SCORE_VARIANCE = "0.86"
RNN_PARAMETERS = {61: 325_181, 65: 329_281}
LONG_RUNS = {"rnn_all": ("rnn", 26_100), "lstm_output_gate_all": ("lstm_scratch", 52_200)}
"""Document E's models: the recorded run, and the steps that its epochs make of tiny Shakespeare."""


@dataclass(frozen=True)
class Row:
    """One published figure.

    Attributes:
        document: A to E.
        entry: what it is a figure of: an entry of the zoo, or a subject.
        figure: which of its figures, and by what protocol.
        published: the number as printed; None where the document prints none.
        ours: by the same protocol; None where it was not run.
        tolerance: how far two draws of this statistic may differ; None where it was not measured.
        verdict: one of the words above.
        full_pass: our loss over every character, nats, and of which text; None where there is none.
        evidence: the command that ours comes from.
        remark: what a reader should know beside it.
    """

    document: str
    entry: str
    figure: str
    published: float | None
    ours: float | None
    tolerance: float | None
    verdict: str
    full_pass: dict[str, Any] | None = None
    evidence: str = "dvc repro"
    remark: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the published number."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published


def half_unit(printed: str) -> float:
    """Return half a unit of the last digit of a printed number.

    >>> half_unit("25.36"), half_unit("325181")
    (0.005, 0.5)
    """
    return 0.5 / float(10 ** len(printed.partition(".")[2]))


def two_draws(sd: float) -> float:
    """Return how far two draws of a standard deviation lie apart at most, 19 times in 20."""
    return 2 * math.sqrt(2) * sd


def compare(
    document: str,
    entry: str,
    figure: str,
    printed: str,
    ours: float | None,
    spread: float | None,
    **more: Any,
) -> Row:
    """Return the row of a printed figure.

    Args:
        document: A to E.
        entry: as in Row.
        figure: as in Row.
        printed: the number, with the digits that the document prints.
        ours: by the same protocol; None if it was not run.
        spread: standard deviation of a draw; 0 for what is no draw, None if it was not measured.
        more: other attributes of the row.
    """
    if ours is None or spread is None:
        verdict = NOT_RUN if ours is None else UNMEASURED
        return Row(document, entry, figure, float(printed), ours, None, verdict, **more)
    allowed = half_unit(printed) + two_draws(spread)
    # Printed digits are decimal fractions: half a unit may come out a rounding error larger.
    met = abs(ours - float(printed)) <= allowed + 1e-9
    verdict = REPRODUCED if met else DIFFERS
    return Row(document, entry, figure, float(printed), ours, allowed, verdict, **more)


class Evidence:
    """What the pipeline and the recorded long runs found.

    Args:
        settings: params.yaml.
        results: the folder with results/ENTRY.
        recorded: content of benchmarks/sources.json.
        corpus: the text itself, to know whether it is tiny Shakespeare.
        untrained: losses of untrained bigram tables, one a seed, on 4 x 8 characters.
        bigram_nats: loss of the trained bigram over the training split; None if it is not there.
        greeting_ids: ids of document D's greeting; empty if this corpus cannot spell it.
    """

    def __init__(
        self,
        settings: Params,
        results: Path,
        recorded: dict[str, Any],
        corpus: Path,
        untrained: list[float],
        bigram_nats: float | None,
        greeting_ids: list[int],
    ) -> None:
        self.entries = settings.trained
        self.recorded = recorded
        self.entropy = read_json(results / "entropy.json")
        self.metrics = {name: read_json(results / name / "metrics.json") for name in self.entries}
        self.curves = {name: _curve(results / name / "curve.csv") for name in self.entries}
        digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
        self.published_corpus = digest == CORPUS_SHA256
        self.untrained = untrained
        self.bigram_nats = bigram_nats
        self.greeting_ids = greeting_ids

    def draws(self, name: str, step: int) -> list[float] | None:
        """Return the recorded draws of an entry's one-batch loss at a step."""
        found = self.recorded.get("spread", {}).get("batch_nats", {}).get(name, {})
        draws: list[float] | None = found.get(str(step))
        return draws

    def full_pass(self, name: str) -> dict[str, Any] | None:
        """Return an entry's windowed loss over every character, and of which text."""
        if name not in self.metrics:
            return None
        if name == "bigram" and self.bigram_nats is not None:
            return {"text": "train", "nats_per_char": self.bigram_nats}
        windowed = self.metrics[name]["windowed"]
        text = "seen" if "seen" in windowed else "holdout"
        return {"text": text, "nats_per_char": windowed[text]["nats_per_char"]}


def _curve(path: Path) -> dict[int, dict[str, float]]:
    """Return the rows of a curve.csv by step."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `dvc repro`") from None
    return {int(row["step"]): row for row in rows}


def table(evidence: Evidence) -> list[Row]:
    """Return a row for every figure of documents A to E."""
    of_the_corpus = [
        *entropy_rows(evidence),
        *shake_rows(evidence),
        *lmnet_rows(evidence),
        *perceptron_rows(evidence),
        *bigram_rows(evidence),
    ]
    if not evidence.published_corpus:
        of_the_corpus = [
            replace(row, ours=None, tolerance=None, verdict=OTHER_CORPUS, full_pass=None)
            for row in of_the_corpus
        ]
    rows = [*of_the_corpus, *ladder_rows(evidence), *recurrent_rows(evidence)]
    return sorted(rows, key=lambda row: row.document)


def entropy_rows(evidence: Evidence) -> list[Row]:
    """Document A's plug-in entropies, bits per character, and its compression ratio."""
    orders = evidence.entropy["texts"]["whole"]["orders"]
    found = {row["order"]: row["estimates"]["plug_in"] for row in orders}
    nothing = {"bits_per_char": None, "conditional_bits_per_char": None, "compression_ratio": None}
    rows = [
        compare(
            "A",
            "entropy",
            f"H_{n} / {n}, bits per character",
            printed,
            found.get(n, nothing)["bits_per_char"],
            0.0,
        )
        for n, printed in ENTROPIES.items()
    ]
    rows += [
        compare(
            "A",
            "entropy",
            f"H(X | {k} before), bits per character",
            printed,
            found.get(k + 1, nothing)["conditional_bits_per_char"],
            0.0,
        )
        for k, printed in CONDITIONAL.items()
    ]
    ratio = compare(
        "A",
        "entropy",
        "H_1 / 8, a compression ratio",
        COMPRESSION,
        found.get(1, nothing)["compression_ratio"],
        0.0,
        remark='printed as "bits per byte"; a byte has 8 bits and holds one character here',
    )
    return [*rows, ratio]


def shake_rows(evidence: Evidence) -> list[Row]:
    """Document A's ShakeLSTM: mean of an epoch's batches, and of ten validation batches."""
    run = evidence.recorded.get("shake_lstm", {})
    points = {int(point["step"]): point for point in run.get("curve", [])}
    command = "python -m benchmarks.sources shake_lstm"
    remark = "spread over batches alone: one seed was run"

    def row(epoch: int, training: bool, printed: str, bits_by_8: bool = False) -> Row:
        point = points.get(epoch * EPOCH, {})
        unit = 1 / math.log(2) / 8 if bits_by_8 else 1.0
        ours, spread = point.get("train_nats" if training else "ten_batches_nats"), None
        if "ten_batches_sd" in point:
            # The spread of ten batches gives that of one, and so that of an epoch's hundred.
            spread = point["ten_batches_sd"] * unit * (math.sqrt(10 / EPOCH) if training else 1)
        what = "mean of its training batches" if training else "ten validation batches"
        return compare(
            "A",
            "shake_lstm",
            f"epoch {epoch}, {what}{', bits / 8' * bits_by_8}",
            printed,
            None if ours is None else ours * unit,
            spread,
            full_pass=holdout if epoch == max(SHAKE_TRAIN) and not bits_by_8 else None,
            evidence=command,
            remark='printed as "bits per byte": the nats in another unit' if bits_by_8 else remark,
        )

    found = run.get("losses", {}).get("windowed", {}).get("holdout")
    holdout = found and {"text": "holdout", "nats_per_char": found["nats_per_char"]}
    rows = []
    for epoch, printed in SHAKE_TRAIN.items():
        rows.append(row(epoch, True, printed))
        if epoch in SHAKE_VALIDATION:
            rows.append(row(epoch, False, SHAKE_VALIDATION[epoch]))
    for epoch, pair in SHAKE_BITS_BY_8.items():
        rows += [row(epoch, True, pair[0], True), row(epoch, False, pair[1], True)]
    # What ran beside other work says nothing of speed.
    alone = bool(run) and not run["shared"]
    seconds = run["seconds"] / run["steps"] * EPOCH if alone else None
    return [
        *rows,
        Row(
            "A",
            "shake_lstm",
            "seconds an epoch (6.6 to 7.6 on its GPU)",
            6.6,
            seconds,
            None,
            OTHER_MACHINE if alone else UNTIMED if run else NOT_RUN,
            evidence=command,
            remark=f"{run['machine']}, {run['threads']} threads" if alone else "",
        ),
    ]


def lmnet_rows(evidence: Evidence) -> list[Row]:
    """Document B's LMNet: the loss of one batch every 500 steps, at the width that fits best."""
    entry = evidence.entries.get("lmnet_all")
    tried = {
        int(name.removeprefix("lmnet_")): {int(point["step"]): point for point in run["curve"]}
        for name, run in evidence.recorded.items()
        if name.startswith("lmnet_")
    }
    told = float(LMNET[1])
    best = min(
        tried, key=lambda width: abs(tried[width][LMNET_EVERY]["batch_nats"] - told), default=None
    )
    recorded = tried[best] if best else {}
    starts = evidence.recorded.get("starts", {}).get("lmnet", {}).get(str(best))
    whole = evidence.recorded.get("published_lmnet")
    if whole and whole["architecture"]["n_embd"] == best:
        recorded = {int(point["step"]): point for point in whole["curve"]} | recorded
    here = evidence.curves["lmnet_all"] if entry and _as_published(entry) else {}
    rows = []
    for index, printed in enumerate(LMNET):
        step = index * LMNET_EVERY
        point = here.get(step) or recorded.get(step) or {}
        measured = (recorded.get(step) or recorded.get(LMNET_EVERY) or {}).get("batches_sd")
        if step == 0 and starts:
            measured = statistics.stdev(starts)
        if step in here and entry:
            more = {"evidence": "dvc repro", "remark": f"n_embd {entry.architecture['n_embd']}"}
        elif step in recorded and step > LMNET_EVERY:
            more = {
                "evidence": "python -m benchmarks.sources published_lmnet",
                "remark": f"n_embd {best}",
            }
        elif step in recorded:
            others = ", ".join(
                f"{width}: {curve[step]['batch_nats']:.4f}"
                for width, curve in sorted(tried.items())
            )
            more = {
                "evidence": f"python -m benchmarks.sources lmnet_{best}",
                "remark": f"n_embd {best}, the nearest of those tried ({others})",
            }
        else:
            more = {"evidence": "", "remark": "10,000 steps are for a GPU"}
        rows.append(
            compare(
                "B",
                "lmnet_all",
                f"step {step:,}, one training batch",
                printed,
                point.get("batch_nats"),
                measured,
                **more,
            )
        )
    return rows


def _as_published(entry: Trained) -> bool:
    """Return whether lmnet_all trains on its document's batches in this run."""
    plan = entry.training
    habits = (plan.batch, plan.block, plan.learning_rate, plan.decay)
    return habits == (128, 256, 3e-4, "none")


def perceptron_rows(evidence: Evidence) -> list[Row]:
    """Document C: the loss of one batch of 1,024 pairs, or of all pairs."""
    return [
        one_batch(
            evidence,
            "C",
            name,
            step,
            printed,
            "all pairs" if name.startswith("perceptron_full") else "one batch of 1,024",
        )
        for name, figures in PERCEPTRONS.items()
        for step, printed in figures.items()
    ]


def one_batch(
    evidence: Evidence, document: str, name: str, step: int, printed: str, what: str
) -> Row:
    """Return the row of an entry's loss on one batch at a step of this run."""
    point = evidence.curves.get(name, {}).get(step)
    draws = evidence.draws(name, step)
    return compare(
        document,
        name,
        f"step {step:,}, {what}",
        printed,
        point["batch_nats"] if point else None,
        statistics.stdev(draws) if draws else None,
        full_pass=evidence.full_pass(name) if step and point else None,
        remark=_described(draws) if draws else "",
    )


def _described(draws: list[float]) -> str:
    """Return what is known of a statistic from several seeds."""
    return (
        f"{len(draws)} other seeds: mean {statistics.fmean(draws):.4f}, "
        f"standard deviation {statistics.stdev(draws):.4f}"
    )


def bigram_rows(evidence: Evidence) -> list[Row]:
    """Document D's bigram: one batch of 4 x 8 untrained, one of 32 x 8 after 10,000 steps."""
    first, *others = evidence.untrained
    return [
        compare(
            "D",
            "bigram",
            "untrained, one batch of 4 x 8",
            BIGRAM_UNTRAINED,
            first,
            statistics.stdev(others),
            remark=_described(others),
        ),
        one_batch(evidence, "D", "bigram", 10_000, BIGRAM_TRAINED, "one batch of 32 x 8"),
    ]


def ladder_rows(evidence: Evidence) -> list[Row]:
    """Document D's worked examples: its encoding, softmax, and the variance of scaled scores."""
    import torch

    from charlm.ladder import PUBLISHED_LOGITS, score_variance

    command = "python -m charlm.ladder"
    ids = evidence.greeting_ids
    same = sum(ours == theirs for ours, theirs in zip(ids, GREETING_IDS, strict=False))
    rows = [
        compare(
            "D",
            "encoding",
            f'ids of "{GREETING}" that are {", ".join(map(str, GREETING_IDS))}',
            str(len(GREETING_IDS)),
            float(same) if evidence.published_corpus else None,
            0.0,
        )
    ]
    for factor, printed in SOFTMAX.items():
        probs = torch.softmax(torch.tensor(PUBLISHED_LOGITS, dtype=torch.float64) * factor, 0)
        for place, (theirs, ours) in enumerate(zip(printed, probs.tolist(), strict=True)):
            figure = f"softmax({factor} x its example), place {place + 1}"
            rows.append(compare("D", "ladder", figure, theirs, ours, 0.0, evidence=command))
    variances = [
        score_variance(16, True, torch.Generator().manual_seed(seed), batch=4, time=8)
        for seed in range(100)
    ]
    first, *others = variances
    return [
        *rows,
        compare(
            "D",
            "ladder",
            "variance of q . k / sqrt(16), one draw of 4 x 8 queries and keys",
            SCORE_VARIANCE,
            first,
            statistics.stdev(others),
            evidence=command,
            remark=_described(others),
        ),
    ]


def recurrent_rows(evidence: Evidence) -> list[Row]:
    """Document E's two models: parameters, the only figures it prints, and our losses beside."""
    import torch

    from charlm import models

    rows = []
    for symbols, count in RNN_PARAMETERS.items():
        with torch.device("meta"):
            model = models.build("rnn", symbols, 100, {"hidden": 512, "dropout": 0.5})
        figure = f"parameters with {symbols} symbols"
        rows.append(compare("E", "rnn", figure, str(count), model.parameter_count, 0.0))
    for name, (run_name, steps) in LONG_RUNS.items():
        run = evidence.recorded.get(run_name)
        command = f"python -m benchmarks.sources {run_name}"
        if run:
            seen = run["losses"]["windowed"]["seen"]["nats_per_char"]
            rows.append(
                Row(
                    "E",
                    name,
                    f"{run['steps']:,} steps, the count of its own corpus, last batch",
                    None,
                    run["curve"][-1]["batch_nats"],
                    None,
                    NO_FIGURE,
                    {"text": "seen", "nats_per_char": seen},
                    command,
                    (UNTIMED if run["shared"] else f"{run['seconds']} s on {run['machine']}")
                    + ("; its GPU took 83 s" if name == "rnn_all" else ""),
                )
            )
        point, command = evidence.curves.get(name, {}).get(steps), "dvc repro"
        seen = evidence.full_pass(name) if point else None
        whole = evidence.recorded.get(f"published_{run_name}")
        if not point and whole:
            point, command = (
                whole["curve"][-1],
                f"python -m benchmarks.sources published_{run_name}",
            )
            seen = {"text": "seen", **whole["losses"]["windowed"]["seen"]}
            seen = {key: seen[key] for key in ("text", "nats_per_char")}
        rows.append(
            Row(
                "E",
                name,
                f"{steps:,} steps, its epochs on tiny Shakespeare, last batch",
                None,
                point["batch_nats"] if point else None,
                None,
                NO_FIGURE if point else NOT_RUN,
                seen,
                command,
                "" if point else "for a GPU",
            )
        )
    return rows


def count(rows: list[Row]) -> dict[str, int]:
    """Return how many rows have each verdict."""
    return dict(Counter(row.verdict for row in rows))


def as_json(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    """Return reports/sources.json: the rows, and what the pipeline's own budgets gave beside."""
    return {
        "verdicts": count(rows),
        "rows": [{**asdict(row), "difference": row.difference} for row in rows],
        "this_run": {
            name: {
                "trained_on": entry.trained_on,
                "steps": max(evidence.curves[name]),
                "full_pass": evidence.full_pass(name),
            }
            for name, entry in evidence.entries.items()
            if entry.trained_on == "all" or name in ("shake_lstm", "bigram")
        },
    }
