"""Score one model on every target of the holdout."""

from pathlib import Path

import click

from charlm import encoding, params
from charlm.cli import one_line_errors, progress
from charlm.files import write_json

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@click.option("--model", "name", required=True, help="A folder of models/.")
@one_line_errors
def main(name: str) -> None:
    """Write results/MODEL/metrics.json: windowed and streaming losses of each split.

    \b
    Example:
      python -m stages.evaluate --model lstm
    """
    params.load().model(name)
    ids, validation_length = encoding.load_holdout(ENCODED)

    import torch

    from charlm import checkpoint, evaluation
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = checkpoint.load(MODELS / name, device)
    bytes_of_targets = config.vocabulary.bytes_of_ids[ids[1:]]
    parts = {
        "validation": slice(None, validation_length),
        "test": slice(validation_length, None),
        "holdout": slice(None),
    }
    held = torch.tensor(ids).to(device)
    with progress(2 * (len(ids) - 1), "char", f"{name} evaluation") as bar:
        ways = {
            "windowed": evaluation.windowed(model, held, config.block, bar.update),
            "streaming": evaluation.streaming(model, held, bar.update),
        }
    metrics = {
        way: {
            split: evaluation.summarise(
                (nats[part], correct[part]), int(bytes_of_targets[part].sum())
            )
            for split, part in parts.items()
        }
        for way, (nats, correct) in ways.items()
    }
    write_json(
        RESULTS / name / "metrics.json",
        {
            "model": name,
            "parameters": model.parameter_count,
            "context_length": model.context_length,
            **metrics,
        },
    )
    leaf = metrics["streaming"]["holdout"]
    click.echo(
        f"{name}: holdout, streaming: {leaf['nats_per_char']:.4f} nats, "
        f"{leaf['bits_per_char']:.4f} bits per character",
        err=True,
    )


if __name__ == "__main__":
    main()
