"""Count the training split for one model of the zoo, score it and let it write."""

import time
from pathlib import Path

import click

from charlm import tracking
from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.files import project_root
from stages import evaluate, sample

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@model_option("Entry under `counted` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Fit a model that counts into models/MODEL/, its losses and a sample into results/MODEL/.

    \b
    Example:
      python -m stages.count --model kneser_ney
    """
    settings = params.load()
    entry = settings.counts(name)
    train = encoding.load_split(ENCODED, "train")
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")

    # MLflow is imported by a process beside this one while torch is imported here.
    tracker = tracking.Tracker(settings.corpus.name, project_root())

    import torch

    from charlm import saved_model
    from charlm.models.base import CountingModel

    config = saved_model.Config(
        model=entry.model,
        block=entry.block,
        trained_on=entry.trained_on,
        symbols=vocabulary.symbols,
        architecture=entry.architecture,
        training={},
        seeds={},
    )
    model = config.build()
    assert isinstance(model, CountingModel)
    tracker.start(
        name,
        {"entry": name, "model": entry.model, "architecture": entry.architecture},
        {"device": "cpu", "version.torch": torch.__version__},
        {"name": settings.corpus.name, **encoding.describe(ENCODED)},
    )
    started = time.perf_counter()
    model.fit(torch.tensor(train))
    seconds = time.perf_counter() - started
    saved_model.save(MODELS / name, model, config)
    tracker.finish(
        {"train_seconds": seconds, "characters_per_second": len(train) / seconds},
        {"weights_sha256": tracking.weights_digest(MODELS / name)},
        [MODELS / name / saved_model.WEIGHTS, MODELS / name / saved_model.CONFIG],
    )
    click.echo(
        f"{name}: {model.parameter_count:,} counts of {len(train):,} characters in {seconds:.1f} s",
        err=True,
    )
    evaluate.main(["--model", name], standalone_mode=False)
    sample.main(
        ["--model", name, "--output", str(RESULTS / name / "sample.txt")], standalone_mode=False
    )


if __name__ == "__main__":
    main()
