"""Training on a CUDA device: steps replayed as graphs against the plain loop, for every model.

    python -m benchmarks.gpu [ENTRY ...]        writes benchmarks/gpu.json; only the rows named

Each entry of params.yaml at its full budget's shapes, one after the other in one process:

- `plain`: charlm.training.fit without graphs, which asks for each kernel from Python;
- `replayed`: the same with graphs, as `train` does it, and whether both end in the same weights;
- `free`: replayed, without deterministic algorithms;
- `share_of_peak`: six operations a trained weight and character (two forward, four backward;
  look-ups in tables are none, attention between positions is left out), as a share of what a large
  product of matrices reaches here in the same precision.

Characters a second, from the third look at the loss on, so that capturing is not counted.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import stages  # puts this copy's src first
from benchmarks.machine import machine
from benchmarks.sources import ENCODED, at_scale, load
from charlm.config import params
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel, start_torch
from charlm.saved_model import Config
from charlm.training import trainer

OUTPUT = Path(stages.__file__).parent.parent / "benchmarks/gpu.json"
STEPS, LOOK_EVERY, SKIPPED = 240, 20, 3


def run(
    entry: params.Trained, settings: params.Params, device: torch.device, graphs: bool
) -> tuple[LanguageModel, float]:
    """Train for a few steps; return the model and the characters a second."""
    budget = entry.training.model_copy(
        update={"steps": STEPS, "epochs": None, "validate_every": 10 * LOOK_EVERY, "warmup": 0}
    )
    symbols = Vocabulary.load(ENCODED / "vocabulary.json").symbols
    torch.manual_seed(settings.seeds.initialisation)
    model = Config.of(entry, symbols, settings.seeds).build().to(device)
    ids = load(device)
    looks: list[float] = []

    def advance(steps: int, nats: float) -> None:
        looks.append(time.perf_counter())

    trainer.fit(
        model,
        ids["train"],
        ids["validation"],
        budget,
        settings.seeds.training,
        advance=advance,
        graphs=graphs,
    )
    # The validation estimate comes after the tenth look.
    measured = looks[SKIPPED - 1 : 10]
    steps = (len(measured) - 1) * LOOK_EVERY
    characters = steps * budget.characters_a_step(len(ids["train"]))
    return model, characters / (measured[-1] - measured[0])


def peak(dtype: torch.dtype, device: torch.device, size: int = 8192) -> float:
    """Return the operations a second of a large product of matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    torch.cuda.synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def multiplied(model: LanguageModel) -> int:
    """Return how many trained weights take part in products: all but those of tables."""
    # Without a layer `output` the table of symbols is the output's matrix.
    tables = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and (hasattr(model, "output") or name != "embedding")
    ]
    return model.parameter_count - sum(tables)


def main(names: list[str]) -> None:
    """Measure every entry that is trained by steps, and record it."""
    device = start_torch()
    if device.type != "cuda":
        sys.exit("benchmarks.gpu needs a CUDA device; none was found")
    settings = at_scale("full")
    peaks = {
        "float32": peak(torch.float32, device),
        "bfloat16": peak(torch.bfloat16, device),
    }
    print({name: f"{rate / 1e12:.0f} TFLOP/s" for name, rate in peaks.items()}, flush=True)
    # A named entry is measured again; the others stay as they were.
    rows: dict[str, Any] = read_json(OUTPUT)["entries"] if names and OUTPUT.is_file() else {}
    for name in names or [name for name in settings.models if not name.endswith("_all")]:
        entry = settings.model(name)
        try:
            plain, slow = run(entry, settings, device, graphs=False)
            model, fast = run(entry, settings, device, graphs=True)
            torch.set_deterministic_debug_mode("default")
            _, free = run(entry, settings, device, graphs=True)
        except (RuntimeError, UserError) as error:
            rows[name] = {"error": str(error).splitlines()[0]}
            print(name, rows[name], flush=True)
            continue
        finally:
            torch.set_deterministic_debug_mode("error")
        same = all(
            torch.equal(left, right)
            for left, right in zip(plain.parameters(), model.parameters(), strict=True)
        )
        rate = 6 * multiplied(model) * fast
        rows[name] = {
            "batch": entry.training.batch,
            "block": entry.training.block,
            "precision": entry.training.precision,
            "parameters": model.parameter_count,
            "plain": round(slow),
            "replayed": round(fast),
            "ratio": round(fast / slow, 2),
            "free": round(free),
            "same_weights": same,
            "share_of_peak": round(rate / peaks[entry.training.precision], 5),
        }
        print(name, rows[name], flush=True)
    write_json(
        OUTPUT,
        {
            "command": "python -m benchmarks.gpu",
            "machine": machine(device),
            "unit": "characters per second of training",
            "peak": {name: round(rate) for name, rate in peaks.items()},
            "entries": rows,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
