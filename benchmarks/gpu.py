"""Training on a CUDA device: steps replayed as graphs against the plain loop, for every model.

    python -m benchmarks.gpu [RUN ...]        adds to benchmarks/gpu.json

Without a name it measures what is not recorded on this device yet, and records each as it is known.
Figures of other devices, and of other versions of torch, stay beside them.

Each ranked run of params.yaml, at the sizes of scale full, one after the other in one process:

- `plain`: the Trainer without CUDA graphs, which asks for each kernel from Python;
- `replayed`: the same with CUDA graphs, as the stage `train` does it;
- `same_weights`: whether both end in the same weights;
- `free`: replayed, without deterministic algorithms;
- `share_of_peak`: six operations per trained weight and character (two forward, four backward;
  look-ups in tables are none, attention between positions is left out), as a share of what a large
  product of matrices reaches here in the same precision.

Characters per second, from the third look at the loss on, so that capturing is not counted.
"""

import sys
import time
from typing import Any

import click
import torch
from torch import nn

from benchmarks.common import GPU_SCALE, ON_GPU, RECORDS, at_scale, build, load
from benchmarks.machine import machine
from charlm.cli import script
from charlm.config import params
from charlm.errors import UserError
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel, start_torch
from charlm.training.trainer import Trainer

OUTPUT = RECORDS / "gpu.json"
STEPS, LOOK_EVERY, SKIPPED = 240, 20, 3


def measure(run: params.Run, device: torch.device, graphs: bool) -> tuple[LanguageModel, float]:
    """Train for a few steps; return the model and the characters per second."""
    plan = run.training.model_copy(
        update={"steps": STEPS, "epochs": None, "validate_every": 10 * LOOK_EVERY, "warmup": 0}
    )
    model, _ = build(run, device)
    ids = load(device)
    features_NKV = model.prepare(ids["train"])
    looks: list[float] = []

    def on_steps(steps: int, nats: float) -> None:
        looks.append(time.perf_counter())

    trainer = Trainer(
        model,
        ids["train"],
        ids["validation"],
        plan,
        run.seed + 1,
        features_NKV=features_NKV,
        graphs=graphs,
    )
    trainer.fit(on_steps=on_steps)
    # The validation estimate comes after the tenth look.
    measured = looks[SKIPPED - 1 : 10]
    steps = (len(measured) - 1) * LOOK_EVERY
    characters = steps * plan.characters_per_step(len(ids["train"]))
    return model, characters / (measured[-1] - measured[0])


def peak(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Return the operations per second of a large product of matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    wait(device)
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    wait(device)
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    """Let a GPU end what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def multiplied(model: LanguageModel) -> int:
    """Return how many trained weights take part in products: all but those of tables."""
    # Without a layer `output` the table of symbols is the output's matrix.
    tables = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and (hasattr(model, "output") or name != "embedding")
    ]
    return model.parameter_count - sum(tables)


def row(run: params.Run, device: torch.device, peaks: dict[str, float]) -> dict[str, Any]:
    """Measure one run; what cannot be measured says why."""
    try:
        plain, slow = measure(run, device, graphs=False)
        model, fast = measure(run, device, graphs=True)
        torch.set_deterministic_debug_mode("default")
        _, free = measure(run, device, graphs=True)
    except (torch.OutOfMemoryError, UserError) as error:
        return {"error": str(error).splitlines()[0]}
    finally:
        torch.set_deterministic_debug_mode("error")
    same = all(
        torch.equal(left, right)
        for left, right in zip(plain.parameters(), model.parameters(), strict=True)
    )
    rate = 6 * multiplied(model) * fast
    return {
        "batch": run.training.batch,
        "block": run.training.block,
        "precision": run.training.precision,
        "parameters": model.parameter_count,
        "plain": round(slow),
        "replayed": round(fast),
        "ratio": round(fast / slow, 2),
        "free": round(free),
        "same_weights": same,
        "share_of_peak": round(rate / peaks[run.training.precision], 5),
    }


def missing(device: torch.device) -> list[str]:
    """Return the runs that are not recorded yet: of all that are trained by steps."""
    settings = at_scale(GPU_SCALE)
    ranked = [name for name in settings.ranked if name in settings.runs]
    recorded = record(device)["entries"]
    by_steps = (name for name in ranked if settings.run(name).training.steps_on(10**6))
    return [name for name in by_steps if name not in recorded]


def records() -> list[dict[str, Any]]:
    """Return what is recorded, by device and version of torch."""
    return list(read_json(OUTPUT)["machines"]) if OUTPUT.is_file() else []


def record(device: torch.device) -> dict[str, Any]:
    """Return what is recorded on this kind of device with this version of torch."""
    here = machine(device)
    same = (each for each in records() if undated(each["machine"]) == undated(here))
    return next(same, {"machine": here, "entries": {}})


def undated(described: str) -> str:
    """Return a machine's description without the day."""
    return described.rpartition(",")[0]


@script(__doc__)
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Measure runs and record them."""
    device = start_torch()
    if not ON_GPU:
        sys.exit("benchmarks.gpu needs a CUDA device; none was found")
    settings, found, peaks = at_scale(GPU_SCALE), record(device), {}
    others = [each for each in records() if undated(each["machine"]) != undated(found["machine"])]
    size = 8192 if device.type == "cuda" else 512
    for precision in ("float32", "bfloat16"):
        peaks[precision] = peak(getattr(torch, precision), device, size)
    print({name: f"{rate / 1e12:.2f} TFLOP/s" for name, rate in peaks.items()}, flush=True)
    for name in names or missing(device):
        found["entries"][name] = row(settings.run(name), device, peaks)
        print(name, found["entries"][name], flush=True)
        found |= {
            "machine": machine(device),
            "peak": {precision: round(rate) for precision, rate in peaks.items()},
        }
        write_json(
            OUTPUT,
            {
                "command": "python -m benchmarks.gpu",
                "unit": "characters per second of training",
                "machines": [*others, found],
            },
        )


if __name__ == "__main__":
    main()
