"""Score one run on every target of the holdout."""

import json
from pathlib import Path

import click

from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.files import write_json, write_text

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("A run or an ensemble of params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Score a model into results/MODEL/metrics.json, with an excerpt in excerpt.json.

    Losses stand by protocol (streaming, windowed, windowed_256) and by part of the text
    (validation, test, holdout). A run on all of the text has seen the holdout: it is scored on all
    of it, windowed, and the part is called `seen`.

    \b
    Example:
      charlm evaluate --model lstm
    """
    settings = params.load()
    settings.named(name)
    splits = encoding.load_splits(ENCODED)

    from charlm import saved_model
    from charlm.evaluation import metrics
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    targets = sum(map(len, splits.values())) if config.text == "all" else 0
    targets = targets or len(splits["validation"]) + len(splits["test"])
    with progress(metrics.passes(config) * targets, "char", f"{name} evaluation") as bar:
        losses = metrics.losses(model, config, splits, device, bar.update)
    write_json(
        RESULTS / name / "metrics.json",
        {
            "model": name,
            "text": config.text,
            "parameters": model.parameter_count,
            "context_length": model.context_length,
            **losses,
        },
    )
    excerpt = metrics.excerpt(model, config, splits, settings.excerpt, device)
    write_text(RESULTS / name / "excerpt.json", json.dumps(excerpt, ensure_ascii=False) + "\n")
    protocol, part = ("windowed", "seen") if config.text == "all" else ("streaming", "holdout")
    leaf = losses[protocol][part]
    click.echo(
        f"{name}: {part}, {protocol}: {leaf['bits_per_char']:.4f} bits per character "
        f"({leaf['nats_per_char']:.4f} nats)",
        err=True,
    )


if __name__ == "__main__":
    main()
