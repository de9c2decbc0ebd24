"""Score one model on the holdout while it goes on learning from what it has been scored on."""

from pathlib import Path

import click
import numpy as np

from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import write_json

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("Entry under `adaptive` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Write results/MODEL/adaptive.json: losses of validation, test and both, as one stream.

    The model in models/MODEL/ stays as it is.

    \b
    Example:
      python -m stages.adapt --model lstm
    """
    how = params.load().adapts(name)
    train, *holdout = (encoding.load_split(ENCODED, split) for split in encoding.SPLITS)

    import torch

    from charlm import saved_model
    from charlm.evaluation import dynamic, loss
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    past, targets = (torch.tensor(ids).to(device) for ids in (train, np.concatenate(holdout)))
    try:
        with progress(len(targets), "char", f"{name} adaptive") as bar:
            nats, correct = dynamic.adaptive(model, past, targets, how, bar.update)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    first, sizes = len(holdout[0]), config.vocabulary.bytes_of_ids[targets.cpu().numpy()]
    parts = {"validation": slice(None, first), "test": slice(first, None), "holdout": slice(None)}
    found = {
        part: loss.summarise((nats[where], correct[where]), int(sizes[where].sum()))
        for part, where in parts.items()
    }
    write_json(RESULTS / name / "adaptive.json", {"model": name, **how.model_dump(), **found})
    leaf = found["holdout"]
    click.echo(
        f"{name}: holdout, adaptive: {leaf['nats_per_char']:.4f} nats, "
        f"{leaf['bits_per_char']:.4f} bits per character",
        err=True,
    )


if __name__ == "__main__":
    main()
