"""Put two trained models together, score the ensemble and sample from it."""

import time
from pathlib import Path

import click

from charlm import tracking
from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.files import project_root, write_json
from stages import evaluate, sample

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("An entry of `ensembles` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Save an ensemble, with its members inside, into models/MODEL/, and write its results.

    Its weights are fitted on validation, and so is the choice between linear and geometric mixing
    if params.yaml says `best`. results/MODEL/ensemble.json has both.

    \b
    Example:
      charlm ensemble --model mixture
    """
    settings = params.load()
    entry = settings.ensemble(name)
    train, validation, _ = encoding.load_splits(ENCODED).values()
    # A process beside this one imports MLflow while torch is imported here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    import torch

    from charlm import saved_model
    from charlm.evaluation import ensemble
    from charlm.models.base import start_torch

    device = start_torch()
    tracker.start(
        name,
        {"entry": name, "model": "ensemble", "first": entry.first, "second": entry.second},
        {"device": device.type, "version.torch": torch.__version__},
        {"name": settings.corpus.name, **encoding.describe(ENCODED)},
    )
    started = time.perf_counter()
    members = [saved_model.load(MODELS / member, device) for member in entry.members]
    model, config, fit = ensemble.build(entry, members, train, validation, device)
    seconds = time.perf_counter() - started
    folder, results = MODELS / name, RESULTS / name
    saved_model.save(folder, model, config)
    mixing = config.architecture["mixing"]
    write_json(results / "ensemble.json", fit.table(entry.members, mixing))
    tracker.finish(
        {"train_seconds": seconds},
        {"weights_sha256": tracking.weights_digest(folder)},
        [folder / saved_model.CONFIG, results / "ensemble.json"],
    )
    first, second = fit.ways[mixing][0]
    click.echo(
        f"{name}: {mixing}, {first:.3f} {entry.first} and {second:.3f} {entry.second}, "
        f"in {seconds:.1f} s",
        err=True,
    )
    evaluate.main(["--model", name], standalone_mode=False)
    sample.main(["--model", name, "--output", str(results / "sample.txt")], standalone_mode=False)


if __name__ == "__main__":
    main()
