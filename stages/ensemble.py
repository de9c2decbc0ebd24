"""Put two trained models together, score the ensemble and sample from it."""

import time
from pathlib import Path

import click
import numpy as np

from charlm import results, tracking
from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import project_root, read_array, write_json
from stages import evaluate, sample

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")
ROWS = "log_probabilities.npy"


@click.command()
@model_option("An entry of `ensembles` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Save an ensemble, with its members inside, into models/MODEL/, and write its results.

    Its weights are fitted on validation, and so is the choice between linear and geometric mixing
    if params.yaml says `best`. results/MODEL/ensemble.json has both. It is scored streaming, by
    what its members said about each place of the holdout, so no member has to read it again.

    \b
    Example:
      charlm ensemble --model mixture
    """
    settings = params.load()
    entry = settings.ensemble(name)
    train, validation, test = encoding.load_splits(ENCODED).values()
    # A process beside this one imports MLflow while torch is imported here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    import torch

    from charlm import saved_model
    from charlm.evaluation import ensemble, metrics
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
    for member, (_, config) in zip(entry.members, members, strict=True):
        encoding.check_symbols(member, config.symbols, ENCODED)
    holdout = np.concatenate([validation, test])
    symbols = len(members[0][1].symbols)
    try:
        ensemble.check_memory(name, len(holdout), symbols)
    except UserError as error:
        raise UserError(f"{error}, or leave out: {settings.leaving_out(name)}") from None
    log_p_KNV = np.empty((len(members), len(holdout), symbols), dtype=np.float16)
    for place, (member, (model, _)) in enumerate(zip(entry.members, members, strict=True)):
        # Refuses an array of other weights.
        results.load(RESULTS / member / "metrics.json", MODELS / member)
        kept_RV = read_array(RESULTS / member / ROWS)
        ensemble.log_probabilities(kept_RV, model, train, holdout, device, log_p_KNV[place])
    first = len(validation)
    model, config, fit = ensemble.build(entry, members, log_p_KNV[:, :first], validation)
    seconds = time.perf_counter() - started
    folder, output = MODELS / name, RESULTS / name
    saved_model.save(folder, model, config)
    mixing = config.architecture["mixing"]
    write_json(output / "ensemble.json", fit.table(entry.members, mixing))
    tracker.finish(
        {"train_seconds": seconds},
        {"weights_sha256": tracking.weights_digest(folder)},
        [folder / saved_model.CONFIG, output / "ensemble.json"],
    )
    weights_K = fit.ways[mixing][0]
    shares = " and ".join(f"{w:.3f} {m}" for w, m in zip(weights_K, entry.members, strict=True))
    click.echo(f"{name}: {mixing}, {shares}, in {seconds:.1f} s", err=True)
    rows_RV = metrics.rows(config, len(holdout))
    scores = ensemble.scores(log_p_KNV, holdout, weights_K, mixing, rows_RV)
    sizes_N = config.vocabulary.bytes_of_ids[holdout]
    losses = {"streaming": metrics.leaves(scores, sizes_N, metrics.halves(first))}
    evaluate.write(name, metrics.content(name, model, config, losses), rows_RV.numpy())
    sample.main(["--model", name, "--output", str(output / "sample.txt")], standalone_mode=False)


if __name__ == "__main__":
    main()
