"""Dynamic evaluation: score one model while it goes on learning from what it has been scored on."""

from pathlib import Path

import click
import numpy as np

from charlm import results
from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import write_json

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("An entry of `dynamic` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Write results/MODEL/dynamic.json: losses of validation, test and both, as one stream.

    The saved model stays as it is. With `dynamic_evaluation: false` in params.yaml nothing is
    scored, and the file says nothing.

    \b
    Example:
      charlm dynamic --model lstm
    """
    settings = params.load()
    how = settings.learner(name)
    if not settings.dynamic_evaluation:
        write_json(RESULTS / name / "dynamic.json", {})
        click.echo(f"{name}: left out (dynamic_evaluation is false)", err=True)
        return
    train, validation, test = encoding.load_splits(ENCODED).values()

    import torch

    from charlm import saved_model
    from charlm.evaluation import dynamic, metrics
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    encoding.check_symbols(name, config.symbols, ENCODED)
    holdout = np.concatenate([validation, test])
    past_M, targets_N = torch.tensor(train).to(device), torch.tensor(holdout).to(device)
    try:
        with progress(len(holdout), "char", f"{name} dynamic evaluation") as bar:
            symbols = config.vocabulary.symbols
            scores = dynamic.scores(model, past_M, targets_N, how, symbols, bar.update)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    sizes_N = config.vocabulary.bytes_of_ids[holdout]
    losses = metrics.leaves(scores, sizes_N, metrics.halves(len(validation)))
    content = {"model": name, **how.model_dump(), **losses}
    results.save(RESULTS / name / "dynamic.json", content, MODELS / name)
    click.echo(f"{name}, learning on the way: {metrics.in_words(losses)}", err=True)


if __name__ == "__main__":
    main()
