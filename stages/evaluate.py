"""Score one run on every target of the holdout."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlm import results
from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.files import write_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("A run of params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Score a run into results/RUN/metrics.json, and keep what it said in log_probabilities.npy.

    Losses stand by protocol (streaming, windowed, windowed_256) and by part of the text
    (validation, test, holdout). The array has the log-probability of every symbol at each place of
    the holdout, streaming: ensembles are made of it, and the report shows an excerpt. A run on all
    of the text has seen the holdout: it is scored on all of it, windowed, the part is called
    `seen`, and the array is empty.

    \b
    Example:
      charlm evaluate --model lstm
    """
    params.load().run(name)
    splits = encoding.load_splits(ENCODED)

    from charlm import saved_model
    from charlm.evaluation import metrics
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    encoding.check_symbols(name, config.symbols, ENCODED)
    targets = sum(map(len, splits.values())) if config.text == "all" else 0
    targets = targets or len(splits["validation"]) + len(splits["test"])
    with progress(metrics.passes(config) * targets, "char", f"{name} evaluation") as bar:
        losses, log_p_RV = metrics.losses(model, config, splits, device, bar.update)
    write(name, metrics.content(name, model, config, losses), log_p_RV)


def write(name: str, content: dict[str, Any], log_p_RV: "NDArray[Any]") -> None:
    """Write the results of a run or an ensemble, and say its loss."""
    from charlm.evaluation import metrics

    # The array first: metrics.json says whose weights both are of.
    write_array(RESULTS / name / "log_probabilities.npy", log_p_RV)
    results.save(RESULTS / name / "metrics.json", content, MODELS / name)
    if content["text"] == "all":
        bits = content["windowed"]["seen"]["bits_per_char"]
        click.echo(f"{name}: {bits:.4f} bits per character of its training text", err=True)
    else:
        click.echo(f"{name}: {metrics.in_words(content['streaming'])}", err=True)


if __name__ == "__main__":
    main()
