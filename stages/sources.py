"""Hold what was reproduced against what five documents print."""

from pathlib import Path

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import read_json, write_json
from charlm.report import published

CORPUS, ENCODED = Path("data/raw/corpus.txt"), Path("data/encoded")
MODELS, RESULTS = Path("models"), Path("results")
RECORDED, OUTPUT = Path("benchmarks/sources.json"), Path("reports/sources.json")
SEEDS = 100


@click.command()
@one_line_errors
def main() -> None:
    """Write reports/sources.json: every published figure, ours by the same protocol, a verdict.

    \b
    Example:
      python -m stages.sources
    """
    settings = params.load()
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    try:
        greeting = vocabulary.encode(published.GREETING).tolist()
    except UserError:
        greeting = []
    train = encoding.load_split(ENCODED, "train")
    evidence = published.Evidence(
        settings,
        RESULTS,
        read_json(RECORDED),
        CORPUS,
        untrained_bigrams(train, len(vocabulary)),
        bigram_training_loss(train) if "bigram" in settings.models else None,
        greeting,
    )
    rows = published.table(evidence)
    write_json(OUTPUT, published.as_json(evidence, rows))
    told = ", ".join(f"{count} {verdict}" for verdict, count in published.count(rows).items())
    click.echo(f"sources: {len(rows)} published figures: {told}", err=True)


def untrained_bigrams(ids: encoding.Ids, symbols: int) -> list[float]:
    """Return the losses of untrained bigram tables, one a seed, each on 4 windows of 8."""
    import torch
    from torch.nn import functional

    from charlm import models
    from charlm.data import batches

    text_N, losses = torch.tensor(ids), []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = models.build("bigram", symbols, 8, {})
        stream = batches.windows(text_N, 4, 8, torch.Generator().manual_seed(seed))
        inputs_BT, targets_BT, _ = next(stream)
        with torch.no_grad():
            logits_BTV, _ = model(inputs_BT)
        losses.append(
            float(functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten()))
        )
    return losses


def bigram_training_loss(ids: encoding.Ids) -> float:
    """Return the trained bigram's loss over every pair of the training split, nats."""
    import torch

    from charlm import saved_model
    from charlm.evaluation import loss

    model, config = saved_model.load(MODELS / "bigram", torch.device("cpu"))
    nats, _ = loss.windowed(model, torch.tensor(ids), config.block)
    return float(nats.mean())


if __name__ == "__main__":
    main()
