"""Train one model of the zoo."""

import csv
import io
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

# cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import click

from charlm import encoding, params
from charlm.cli import one_line_errors, progress
from charlm.errors import UserError
from charlm.files import project_root, write_json, write_text

if TYPE_CHECKING:
    import torch

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@click.option("--model", "name", required=True, help="Entry under `models` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Train a model into models/MODEL/, its curve and activations into results/MODEL/.

    The budget is the one of `scale` in params.yaml. The device is the best of this machine.

    \b
    Example:
      python -m stages.train --model lstm
    """
    settings = params.load()
    entry = settings.model(name)
    splits = {split: encoding.load_split(ENCODED, split) for split in encoding.SPLITS}
    encoding.check_lengths({split: len(ids) for split, ids in splits.items()}, entry)
    train(settings, entry, splits)


def train(settings: params.Params, entry: params.Trained, splits: dict[str, encoding.Ids]) -> None:
    """Train one entry and write what it became; torch is imported only now, after all checks."""
    import torch

    from charlm import activations, checkpoint, tracking, training
    from charlm.models.base import start_torch
    from charlm.vocabulary import Vocabulary

    budget, root = entry.training, project_root()
    device = start_torch()
    vocabulary = Vocabulary.load(ENCODED / "vocabulary.json")
    config = checkpoint.Config.of(entry, vocabulary.symbols, settings.seeds)
    torch.manual_seed(settings.seeds.initialisation)
    model = config.build().to(device)
    ids = {split: torch.tensor(splits[split]).to(device) for split in splits}
    seen = torch.cat(list(ids.values())) if entry.trained_on == "all" else ids["train"]

    tracker = tracking.Tracker(settings.corpus.name, root)
    tracker.start(
        entry.name,
        {"entry": entry.name, "scale": settings.scale, "parameters": model.parameter_count}
        | {key: value for key, value in asdict(config).items() if key != "symbols"},
        {"device": device_name(device), "version.torch": torch.__version__},
        {"name": settings.corpus.name, **encoding.describe(ENCODED)},
    )
    steps_in_all = budget.steps_on(len(seen))
    per_step = (budget.batch or len(seen) - budget.block) * budget.block
    flow = {"initial": activations.statistics(model, seen, budget.block)}
    started = time.perf_counter()
    try:
        with progress(steps_in_all * per_step, "char", entry.name) as bar:

            def advance(steps: int, nats: float) -> None:
                step = bar.n // per_step + steps
                bar.set_postfix_str(f"step {step:,}/{steps_in_all:,}, {nats:.3f} nats", False)
                bar.update(steps * per_step)

            curve = training.fit(
                model,
                seen,
                ids["validation"],
                budget,
                settings.seeds.training,
                tracker.point,
                advance,
            )
    except KeyboardInterrupt:
        tracker.fail("KILLED")
        raise
    except UserError as error:
        tracker.fail("FAILED")
        raise UserError(f"{entry.name}: {error}") from None
    except BaseException:
        tracker.fail("FAILED")
        raise
    seconds = time.perf_counter() - started
    flow["trained"] = activations.statistics(model, seen, budget.block)
    last = curve[-1]
    rate = last.characters / seconds

    folder, results = MODELS / entry.name, RESULTS / entry.name
    checkpoint.save(folder, model, config)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(asdict(curve[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in curve)
    write_text(results / "curve.csv", table.getvalue())
    write_json(results / "activations.json", flow)
    tracker.finish(
        {"train_seconds": seconds, "characters_per_second": rate, **tracking.flow_metrics(flow)},
        {"weights_sha256": tracking.weights_digest(folder)},
        [
            folder / checkpoint.WEIGHTS,
            folder / checkpoint.CONFIG,
            results / "curve.csv",
            results / "activations.json",
        ],
    )
    click.echo(
        f"{entry.name}: {last.step:,} steps in {seconds:.1f} s on {device.type} "
        f"({rate:,.0f} characters/s); validation estimate {last.validation_nats:.4f} "
        f"nats, {last.validation_nats / math.log(2):.4f} bits",
        err=True,
    )


def device_name(device: "torch.device") -> str:
    """Return the device as a person knows it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else "mps"


if __name__ == "__main__":
    main()
