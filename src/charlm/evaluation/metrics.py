"""A saved model's results: losses by protocol and part of the text, and an excerpt."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
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

Parts = dict[str, slice]
Advance = Callable[[int], object]


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
) -> dict[str, Any]:
    """Return the losses of a model by protocol and part of the text.

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
        each with a leaf of numbers for each part.
    """
    train, validation, test = splits.values()
    if config.text == "all":
        ids, parts = np.concatenate([train, validation, test]), {"seen": slice(None)}
    else:
        ids = np.concatenate([train[-1:], validation, test])
        parts = halves(len(validation))
    ids_N = torch.from_numpy(ids).to(device)
    scores = {"windowed": loss.windowed(model, ids_N, config.block, advance)}
    if config.text == "train":
        own = config.block == WINDOW
        scores["windowed_256"] = (
            scores["windowed"] if own else loss.windowed(model, ids_N, WINDOW, advance)
        )
        scores["streaming"] = loss.streaming(model, ids_N, advance)
    sizes_N = config.vocabulary.bytes_of_ids.astype(np.uint8)[ids[1:]]
    return {protocol: leaves(found, sizes_N, parts) for protocol, found in scores.items()}


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


def passes(config: "Config") -> int:
    """Return how often `losses` scores every target."""
    if config.text == "all":
        return 1
    return 2 if config.block == WINDOW else 3


def excerpt(
    model: "LanguageModel",
    config: "Config",
    splits: "dict[str, Ids]",
    characters: int,
    device: torch.device,
) -> dict[str, Any]:
    """Return an excerpt of the holdout and what a model predicted at each character.

    Args:
        model: in evaluation mode, on the device.
        config: of the saved model.
        splits: ids of each split.
        characters: of the excerpt; fewer if there are no more.
        device: to compute on.

    Returns:
        `text`; `bits` of each character; the likeliest symbols at its place as `guesses`, with
        their probabilities in `percent`.
    """
    train, validation, test = splits.values()
    ids = np.concatenate([train[-1:], validation, test])
    start = min(BEFORE, max(0, len(ids) - 1 - characters))
    read_N: Tensor = torch.tensor(ids[: start + characters + 1]).to(device)
    bits, guesses, shares = loss.excerpt(model, read_N, start, GUESSES)
    symbols = config.symbols
    return {
        "text": "".join(symbols[place] for place in read_N[start + 1 :].tolist()),
        "bits": [round(value, 2) for value in bits.tolist()],
        "guesses": ["".join(symbols[place] for place in row) for row in guesses.tolist()],
        "percent": [[round(100 * share) for share in row] for row in shares.tolist()],
    }
