"""Trainings in float64, alone or as one of several processes: `-m tests.ranked FOLDER MODEL...`."""

import sys
from pathlib import Path

import safetensors.torch
import torch

from charlm import models
from charlm.training import distributed
from tests.workspace import at_scale
from tests.zoo import fit


def main(folder: Path, *names: str) -> None:
    """Take 20 steps of each model and write the weights and the curve of rank 0."""
    ranks, _ = distributed.start(torch.device("cpu"))
    torch.set_default_dtype(torch.float64)
    for name in names:
        torch.manual_seed(1 + ranks.rank)
        found = train(name, ranks)
        if ranks.rank == 0:
            safetensors.torch.save_file(found, folder / name)
    distributed.stop()


def train(name: str, ranks: distributed.Ranks) -> dict[str, torch.Tensor]:
    """Return the weights and the curve, under its name."""
    entry = at_scale("smoke").run(name)
    # Seven rows are four and three; without epochs, dropout and early ends.
    plan = entry.training.model_copy(
        update={"batch": 7, "steps": 20, "epochs": None, "validate_every": 10, "stop_below": None}
        | {"validation_characters": 256}
    )
    architecture = {**entry.architecture}
    if "dropout" in architecture:
        architecture["dropout"] = 0.0
    model = models.build(entry.model, 11, plan.block, architecture)
    ids = torch.randint(11, (4000,), generator=torch.Generator().manual_seed(3))
    curve = fit(model, ids[:3000], ids[3000:], plan, 2, ranks=ranks)
    curve_P = torch.tensor([[p.train_nats, p.batch_nats, p.validation_nats] for p in curve])
    return {**model.state_dict(), "curve": curve_P}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
