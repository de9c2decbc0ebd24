"""Score one model on every target of the holdout."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.files import write_json, write_text

if TYPE_CHECKING:
    import torch

    from charlm.models.base import LanguageModel
    from charlm.saved_model import Config

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")

BEFORE, GUESSES = 1000, 5
"""Characters of the holdout before the passage, for context; guesses shown for each of its own."""


@click.command()
@model_option("A folder of models/.")
@one_line_errors
def main(name: str) -> None:
    """Write results/MODEL/metrics.json: windowed and streaming losses of each split.

    And passage.json: what the model expected at each character of a passage of the holdout. A model
    that was trained on all of the text has no holdout: it is scored on all of it, windowed, and
    what is written is called seen.

    \b
    Example:
      python -m stages.evaluate --model lstm
    """
    settings = params.load()
    settings.entry(name)
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}

    from charlm import saved_model
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    metrics = score(name, model, config, splits, device)
    write_json(
        RESULTS / name / "metrics.json",
        {
            "model": name,
            "trained_on": config.trained_on,
            "parameters": model.parameter_count,
            "context_length": model.context_length,
            **metrics,
        },
    )
    if config.trained_on == "train":
        found = passage(model, config, splits, settings.passage, device)
        write_text(RESULTS / name / "passage.json", json.dumps(found, ensure_ascii=False) + "\n")
    way, split = ("streaming", "holdout") if "streaming" in metrics else ("windowed", "seen")
    leaf = metrics[way][split]
    click.echo(
        f"{name}: {split}, {way}: {leaf['nats_per_char']:.4f} nats, "
        f"{leaf['bits_per_char']:.4f} bits per character",
        err=True,
    )


def score(
    name: str,
    model: "LanguageModel",
    config: "Config",
    splits: dict[str, encoding.Ids],
    device: "torch.device",
) -> dict[str, Any]:
    """Return the losses of a trained model by way of evaluation and split.

    Args:
        name: of the entry, for the progress display.
        model: in evaluation mode, on the device.
        config: how it was made.
        splits: ids of each split.
        device: to compute on.
    """
    import torch

    from charlm.evaluation import loss

    if config.trained_on == "all":
        ids = np.concatenate(list(splits.values()))
        parts = {"seen": slice(None)}
    else:
        train, validation, test = splits.values()
        ids = np.concatenate([train[-1:], validation, test])
        first = len(validation)
        parts = {
            "validation": slice(None, first),
            "test": slice(first, None),
            "holdout": slice(None),
        }
    held = torch.from_numpy(ids).to(device)
    passes = 1 if config.trained_on == "all" else 2
    with progress(passes * (len(ids) - 1), "char", f"{name} evaluation") as bar:
        ways = {"windowed": loss.windowed(model, held, config.block, bar.update)}
        if config.trained_on == "train":
            ways["streaming"] = loss.streaming(model, held, bar.update)
    # At most four bytes a character in UTF-8.
    bytes_of_targets = config.vocabulary.bytes_of_ids.astype(np.uint8)[ids[1:]]
    return {
        way: {
            part: loss.summarise((nats[where], correct[where]), int(bytes_of_targets[where].sum()))
            for part, where in parts.items()
        }
        for way, (nats, correct) in ways.items()
    }


def passage(
    model: "LanguageModel",
    config: "Config",
    splits: dict[str, encoding.Ids],
    characters: int,
    device: "torch.device",
) -> dict[str, Any]:
    """Return a passage of the holdout and what a trained model expected at each character.

    Args:
        model: in evaluation mode, on the device.
        config: how it was made.
        splits: ids of each split.
        characters: of the passage; fewer if there are no more.
        device: to compute on.
    """
    import torch

    from charlm.evaluation import loss

    train, *held = splits.values()
    ids = np.concatenate([train[-1:], *held])
    start = min(BEFORE, max(0, len(ids) - 1 - characters))
    taken = torch.tensor(ids[: start + characters + 1]).to(device)
    bits, guesses, shares = loss.passage(model, taken, start, GUESSES)
    symbols = config.symbols
    return {
        "text": "".join(symbols[place] for place in taken[start + 1 :].tolist()),
        "bits": [round(value, 2) for value in bits.tolist()],
        "guesses": ["".join(symbols[place] for place in row) for row in guesses.tolist()],
        "percent": [[round(100 * share) for share in row] for row in shares.tolist()],
    }


if __name__ == "__main__":
    main()
