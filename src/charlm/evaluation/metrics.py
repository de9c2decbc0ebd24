"""A saved model's results: losses by protocol and part of the text, and an excerpt.

Shapes: N targets of the holdout, R rows of log-probabilities, V vocabulary, P characters.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation import loss

if TYPE_CHECKING:
    from charlm.data.encoding import Ids
    from charlm.models.base import LanguageModel
    from charlm.saved_model import Config

WINDOW = 256
"""Characters per window of the protocol that is the same for every model."""

BEFORE, GUESSES = 1000, 5
"""Characters of the holdout before the excerpt, for context; guesses shown for each of its own."""

MOST_BYTES = 1 << 27
"""Size of a file of log-probabilities, at most. Tiny Shakespeare's holdout takes a ninth of it."""

Floats = NDArray[np.float16]
Parts = dict[str, slice]
Advance = Callable[[int], object]
Pass = Callable[[Advance], loss.Scores]


def halves(validation: int) -> Parts:
    """Return the parts of the holdout, whose first so many targets are validation."""
    return {
        "validation": slice(None, validation),
        "test": slice(validation, None),
        "holdout": slice(None),
    }


def losses(
    model: "LanguageModel",
    config: "Config",
    splits: "dict[str, Ids]",
    device: torch.device,
    advance: Advance = lambda characters: None,
) -> tuple[dict[str, Any], Floats]:
    """Return the losses of a model by protocol and part of the text, and its log-probabilities.

    A model that was trained on all of the text has no holdout: it is scored on all of it, windowed,
    and the one part is called `seen`.

    Args:
        model: in evaluation mode, on the device.
        config: of the saved model.
        splits: ids of each split.
        device: to compute on.
        advance: called with the number of targets just scored.

    Returns:
        `streaming`, `windowed` (in windows of the model's own training block) and `windowed_256`,
        each with a leaf of numbers for each part; and the log-probabilities of every symbol at the
        first targets of the holdout, streaming, R x V, float16: of all targets if the file is not
        larger than `MOST_BYTES`, of none if the model has seen them.
    """
    train, validation, test = splits.values()
    if config.text == "all":
        ids, parts = np.concatenate([train, validation, test]), {"seen": slice(None)}
    else:
        ids = np.concatenate([train[-1:], validation, test])
        parts = halves(len(validation))
    ids_N = torch.from_numpy(ids).to(device)
    passes: dict[str, Pass] = {}
    rows_RV = rows(config, 0)
    if config.text == "train":
        rows_RV = rows(config, len(ids) - 1)
        passes["streaming"] = lambda step: loss.streaming(model, ids_N, step, rows_RV)
        if config.block != WINDOW:
            passes["windowed_256"] = lambda step: loss.windowed(model, ids_N, WINDOW, step)
    passes["windowed"] = lambda step: loss.windowed(model, ids_N, config.block, step)
    found = _side_by_side(passes, 2 if device.type == "cpu" else 1, advance)
    scores = {"windowed": found["windowed"]}
    if config.text == "train":
        scores["windowed_256"] = found.get("windowed_256", found["windowed"])
        scores["streaming"] = found["streaming"]
    sizes_N = config.vocabulary.bytes_of_ids.astype(np.uint8)[ids[1:]]
    return {
        protocol: leaves(each, sizes_N, parts) for protocol, each in scores.items()
    }, rows_RV.numpy()


def _side_by_side(
    passes: dict[str, Pass], threads: int, advance: Advance
) -> dict[str, loss.Scores]:
    """Run several passes over the holdout at a time: an experiment waits for the longest alone.

    Args:
        passes: by protocol, the longest first; each calls its argument after some targets.
        threads: that run them.
        advance: called with the number of targets just scored.
    """
    stopped = threading.Event()

    def step(characters: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        advance(characters)

    with ThreadPoolExecutor(threads) as pool:
        try:
            running = {protocol: pool.submit(each, step) for protocol, each in passes.items()}
            wait(running.values(), return_when=FIRST_EXCEPTION)
            for one in running.values():
                if one.done():
                    one.result()  # raises what the pass raised, before any other is waited for
            return {protocol: one.result() for protocol, one in running.items()}
        finally:
            stopped.set()


def rows(config: "Config", targets: int) -> Tensor:
    """Return room for the log-probabilities at as many targets as a file holds, R x V."""
    symbols = len(config.symbols)
    most = MOST_BYTES // (2 * symbols)
    return torch.empty(min(targets, most), symbols, dtype=torch.float16)


def leaves(scores: loss.Scores, sizes_N: Any, parts: Parts) -> dict[str, Any]:
    """Return the numbers of each part.

    Args:
        scores: of N targets.
        sizes_N: length of each target in UTF-8, in bytes.
        parts: of the targets.
    """
    nats, correct = scores
    return {
        part: loss.summarise((nats[where], correct[where]), int(sizes_N[where].sum()))
        for part, where in parts.items()
    }


def in_words(leaves: dict[str, Any]) -> str:
    """Return the losses of both halves of the holdout, as a stage says them."""
    validation, test = (leaves[half]["bits_per_char"] for half in ("validation", "test"))
    return f"validation {validation:.4f}, test {test:.4f} bits per character"


def content(
    name: str, model: "LanguageModel", config: "Config", losses: dict[str, Any]
) -> dict[str, Any]:
    """Return what metrics.json holds of a run or an ensemble."""
    return {
        "model": name,
        "text": config.text,
        "parameters": model.parameter_count,
        "context_length": model.context_length,
        **losses,
    }


def passes(config: "Config") -> int:
    """Return how often `losses` scores every target."""
    if config.text == "all":
        return 1
    return 2 if config.block == WINDOW else 3


def excerpt(log_p_RV: Floats, holdout: "Ids", symbols: str, characters: int) -> dict[str, Any]:
    """Return an excerpt of the holdout and what a model predicted at each character.

    Args:
        log_p_RV: the model's log-probabilities at the first targets of the holdout.
        holdout: its ids.
        symbols: of the vocabulary.
        characters: of the excerpt; fewer if there are no more.

    Returns:
        `text`; the place of its `first` character among the targets; `bits` of each character; the
        likeliest symbols at its place as `guesses`, with their probabilities in `percent`.
    """
    first = min(BEFORE, max(0, len(log_p_RV) - characters))
    log_p_PV = np.asarray(log_p_RV[first : first + characters], dtype=np.float64)
    targets_P = holdout[first : first + len(log_p_PV)].astype(np.int64)
    bits_P = -log_p_PV[np.arange(len(targets_P)), targets_P] / np.log(2)
    best_PG = np.argsort(-log_p_PV, axis=1, kind="stable")[:, :GUESSES]
    percent_PG = 100 * np.exp(np.take_along_axis(log_p_PV, best_PG, axis=1))
    return {
        "text": "".join(symbols[place] for place in targets_P),
        "first": first,
        "bits": [round(value, 2) for value in bits_P.tolist()],
        "guesses": ["".join(symbols[place] for place in row) for row in best_PG],
        "percent": [[round(share) for share in row] for row in percent_PG.tolist()],
    }
