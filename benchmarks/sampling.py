"""Characters drawn per second: the state carried against the context read again for each one.

    python -m benchmarks.sampling        writes benchmarks/sampling.json

Public repositories crop the text to the last block and run all of it through the model for each
character. Ours reads each character once: a recurrent state, or a key-value cache of which the
older half is dropped when the block is full. Same model, same weights (fresh ones: what they say
does not change how long it takes), same sampler, in turn, behind a prompt of a whole block. And
many samples drawn side by side, with the state carried.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm import models, sampling
from charlm.cli import script
from charlm.config import params
from charlm.files import write_json
from charlm.models.base import LanguageModel, start_torch

ROOT = Path(stages.__file__).parent.parent
VOCABULARY, BLOCK, ROUNDS = 65, 256, 5
CARRIED, AGAIN = 1024, 96  # characters drawn in one round
MODELS = ("gpt", "attention", "lstm", "shake_lstm", "lmnet", "gru", "rnn")
SIDE_BY_SIDE = (1, 8, 64)


def rate(model: LanguageModel, length: int, samples: int, context: int | None) -> float:
    """Return the characters a second of one round, those of all samples together."""
    device = next(model.parameters()).device
    prompt_T = torch.arange(BLOCK, device=device) % VOCABULARY
    drawn = sampling.draw(
        model, prompt_T, length, samples, torch.Generator().manual_seed(0), context=context
    )
    next(drawn)  # the prompt is read
    started = time.perf_counter()
    for _ in drawn:
        pass
    return (length - 1) * samples / (time.perf_counter() - started)


@script(__doc__)
def main() -> None:
    """Time each model both ways and write the rates and their ratio."""
    device = start_torch()
    settings = params.load(ROOT / "params.yaml")
    results: dict[str, dict[str, Any]] = {}
    for name in MODELS:
        torch.manual_seed(0)
        entry = settings.run(name)
        model = models.build(entry.model, VOCABULARY, BLOCK, entry.architecture).to(device).eval()
        carried, again = [], []
        for _ in range(ROUNDS):
            carried.append(rate(model, CARRIED, 1, None))
            again.append(rate(model, AGAIN, 1, BLOCK))
        ours, theirs = statistics.median(carried), statistics.median(again)
        results[name] = {
            "carried": round(ours),
            "read_again": round(theirs),
            "ratio": round(ours / theirs, 1),
            "side_by_side": {
                str(samples): round(
                    statistics.median(rate(model, 256, samples, None) for _ in "123")
                )
                for samples in SIDE_BY_SIDE
            },
        }
        print(name, results[name], flush=True)
    write_json(
        ROOT / "benchmarks/sampling.json",
        {
            "command": "python -m benchmarks.sampling",
            "machine": machine(device),
            "unit": "characters per second",
            "block": BLOCK,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
