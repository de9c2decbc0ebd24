"""Mix two models of the zoo into one: find its weights, score it and let it write."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm import tracking
from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import project_root, write_json
from stages import evaluate, sample

if TYPE_CHECKING:
    from charlm.evaluation.ensemble import Floats
    from charlm.models.base import LanguageModel
    from charlm.saved_model import Config

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("Entry under `mixtures` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Write a mixture, with its members inside, into models/MODEL/, and its results.

    Its weights, and linear or geometric mixing if params.yaml says `best`, are chosen on
    validation, of which a handful of numbers learns next to nothing; results/MODEL/mixture.json
    has both ways.

    \b
    Example:
      python -m stages.mix --model mixture
    """
    settings = params.load()
    entry = settings.mixed(name)
    train = encoding.load_split(ENCODED, "train")
    validation = encoding.load_split(ENCODED, "validation")

    # MLflow is imported by a process beside this one while torch is imported here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    import numpy as np
    import torch

    from charlm import saved_model
    from charlm.evaluation import ensemble, loss
    from charlm.models.base import start_torch

    device = start_torch()
    loaded = [saved_model.load(MODELS / member, device) for member in entry.members]
    symbols = loaded[0][1].symbols
    if any(config.symbols != symbols for _, config in loaded):
        raise UserError(f"{name}: its members have different vocabularies: run `dvc repro`")

    tracker.start(
        name,
        {"entry": name, "model": entry.model, "first": entry.first, "second": entry.second},
        {"device": device.type, "version.torch": torch.__version__},
        {"name": settings.corpus.name, **encoding.describe(ENCODED)},
    )
    started = time.perf_counter()
    ids = torch.tensor(np.concatenate([train[-1:], validation])).to(device)
    log_p_KNV = np.stack([loss.log_probabilities(model, ids).numpy() for model, _ in loaded])
    fit = ensemble.fit(log_p_KNV, validation.astype(np.int64))
    kind = fit.best if entry.mixing == "best" else entry.mixing
    seconds = time.perf_counter() - started

    model, config = together(entry, loaded, kind, fit.ways[kind][0])
    saved_model.save(MODELS / name, model, config)
    write_json(RESULTS / name / "mixture.json", fit.table(entry.members, kind))
    tracker.finish(
        {"train_seconds": seconds},
        {"weights_sha256": tracking.weights_digest(MODELS / name)},
        [MODELS / name / saved_model.CONFIG, RESULTS / name / "mixture.json"],
    )
    first, second = fit.ways[kind][0]
    click.echo(
        f"{name}: {kind}, {first:.3f} {entry.first} and {second:.3f} {entry.second}, "
        f"in {seconds:.1f} s",
        err=True,
    )
    evaluate.main(["--model", name], standalone_mode=False)
    sample.main(
        ["--model", name, "--output", str(RESULTS / name / "sample.txt")], standalone_mode=False
    )


def together(
    entry: params.Mixed,
    loaded: "list[tuple[LanguageModel, Config]]",
    kind: str,
    weights_K: "Floats",
) -> "tuple[LanguageModel, Config]":
    """Return a mixture, which holds copies of its members.

    Args:
        entry: of params.yaml.
        loaded: its members and how they were made.
        kind: linear or geometric.
        weights_K: of the members.
    """
    import torch

    from charlm import saved_model

    config = saved_model.Config(
        model=entry.model,
        block=entry.block,
        trained_on=entry.trained_on,
        symbols=loaded[0][1].symbols,
        architecture={
            "mixing": kind,
            "members": [
                {"model": of.model, "block": of.block, "architecture": of.architecture}
                for _, of in loaded
            ],
        },
        training={},
        seeds={},
    )
    model = config.build()
    for place, (member, _) in enumerate(loaded):
        model.get_submodule(f"members.{place}").load_state_dict(member.state_dict())
    model.register_buffer("weights_K", torch.tensor(weights_K, dtype=torch.float32))
    return model, config


if __name__ == "__main__":
    main()
