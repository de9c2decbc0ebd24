"""Characters per second of the from-scratch recurrences against torch.nn's, side by side.

    python -m benchmarks.recurrence        writes benchmarks/recurrence.json

One training step (forward, backward; batch 128, 100 characters, hidden 512, 65 symbols, as the
documents of `rnn` and `lstm_scratch` train) of ours and of torch.nn's in turn, one-hot inputs and a
linear layer on both sides; the median of several rounds.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm import models
from charlm.cli import script
from charlm.files import write_json
from charlm.models.base import start_torch

ROOT = Path(stages.__file__).parent.parent
VOCABULARY, HIDDEN, BATCH, BLOCK, ROUNDS = 65, 512, 128, 100, 7
PAIRS = {"rnn": nn.RNN, "lstm_scratch": nn.LSTM, "gru": nn.GRU}


class Reference(nn.Module):
    """torch.nn's layer on one-hot characters, and a linear layer."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(VOCABULARY, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, ids_BT: torch.Tensor) -> tuple[torch.Tensor, object]:
        """Return logits and the state."""
        hidden_BTH, state = self.layer(functional.one_hot(ids_BT, VOCABULARY).float())
        return self.output(hidden_BTH), state


def step_seconds(model: nn.Module, ids_BT: torch.Tensor) -> float:
    """Return the time of one forward and backward pass."""
    started = time.perf_counter()
    logits_BTV, _ = model(ids_BT)
    functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT.flatten()).backward()
    if ids_BT.is_cuda:
        torch.cuda.synchronize()
    model.zero_grad()
    return time.perf_counter() - started


@script(__doc__)
def main() -> None:
    """Time each pair and write characters per second and their ratio."""
    device = start_torch()
    torch.manual_seed(0)
    ids_BT = torch.randint(VOCABULARY, (BATCH, BLOCK), device=device)
    results = {}
    for name, kind in PAIRS.items():
        settings: dict[str, Any] = {"hidden": HIDDEN, "dropout": 0.0}
        if name == "lstm_scratch":
            settings["readout"] = "hidden"
        ours = models.build(name, VOCABULARY, BLOCK, settings).to(device)
        theirs = Reference(kind).to(device)
        times: dict[str, list[float]] = {"ours": [], "torch": []}
        for _ in range(ROUNDS + 1):
            times["ours"].append(step_seconds(ours, ids_BT))
            times["torch"].append(step_seconds(theirs, ids_BT))
        # The first round of each warms up.
        rates = {
            who: BATCH * BLOCK / statistics.median(seconds[1:]) for who, seconds in times.items()
        }
        results[name] = {
            "characters_per_second": round(rates["ours"]),
            f"{kind.__name__}_characters_per_second": round(rates["torch"]),
            "ratio": round(rates["ours"] / rates["torch"], 2),
        }
        print(name, results[name], flush=True)
    write_json(
        ROOT / "benchmarks/recurrence.json",
        {
            "command": "python -m benchmarks.recurrence",
            "machine": machine(device),
            "batch": BATCH,
            "block": BLOCK,
            "hidden": HIDDEN,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
