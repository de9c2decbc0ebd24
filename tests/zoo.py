"""Any model of the zoo, small."""

import shutil
from pathlib import Path

import torch

from charlm import models, saved_model
from charlm.config import params
from charlm.models.base import LanguageModel
from charlm.playground import command, pack
from charlm.training.trainer import Trainer
from tests.workspace import PROJECT, at_scale

SMOKE = at_scale("smoke")
NAMES = SMOKE.ranked
"""The first run of each entry, then ensembles."""

SYMBOLS = "".join(sorted(set("ROMEO: to be, or not\n")))
"""Of the models of a `project`."""


def described(name: str) -> tuple[str, int, dict]:
    """Return architecture, block and sizes of a run, an ensemble or an architecture."""
    entry = SMOKE.named("mixture" if name == "ensemble" else name)
    if isinstance(entry, params.Run):
        return entry.model, entry.training.block, entry.architecture
    members = [described(member) for member in entry.members]
    mixing = "linear" if entry.mixing == "best" else entry.mixing
    sizes = [
        {"model": model, "block": block, "architecture": architecture}
        for model, block, architecture in members
    ]
    return "ensemble", max(block for _, block, _ in members), {"mixing": mixing, "members": sizes}


IN_JAVASCRIPT = [name for name in NAMES if pack.kinds(*described(name)[::2]) <= command.written()]
"""Those that the playground has."""


def config(name: str, symbols: str, block: int | None = None) -> saved_model.Config:
    """Return the configuration of a model of the zoo, small."""
    architecture, own_block, sizes = described(name)
    block = block or own_block
    return saved_model.Config(architecture, block, "train", symbols, sizes, {}, 1, "")


def build(name: str, vocabulary: int, block: int | None = None) -> tuple[LanguageModel, int]:
    """Return a model of the zoo with fresh weights and counts of a random text, and its block.

    It comes from torch's global random state, has the sizes of scale smoke, and is in evaluation
    mode.
    """
    architecture, own_block, sizes = described(name)
    block = block or own_block
    model = models.build(architecture, vocabulary, block, sizes).eval()
    model.recount(torch.randint(vocabulary, (300,)))
    return model, block


BY_STEPS = [name for name in NAMES if name in SMOKE.runs and SMOKE.runs[name].training.steps]
"""Those that steps of an optimiser train."""


def fit(model, train_N, validation_N, plan, seed, on_point=None, on_steps=None, **options):
    """Train a model and return its loss curve; options as of `Trainer`."""
    trainer = Trainer(model, train_N, validation_N, plan, seed, **options)
    return trainer.fit(on_point or (lambda point: None), on_steps or (lambda steps, nats: None))


def project(folder: Path, *names: str) -> Path:
    """Make a folder with params.yaml and fresh models, and return it."""
    shutil.copy(PROJECT / "params.yaml", folder)
    for name in names:
        model, _ = build(name, len(SYMBOLS))
        saved_model.save(folder / "models" / name, model, config(name, SYMBOLS))
    return folder
