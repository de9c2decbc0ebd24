"""Record how long each model of the zoo trained in the last `make repro` on this machine.

    make repro
    python -m benchmarks.training_time        writes benchmarks/training_time.json

The report shows these seconds, because a pipeline whose outputs held a clock would never give the
same bytes twice. They are the `train_seconds` of the MLflow runs that made the weights in models/:
training alone, with its loss curve, without start-up, MLflow and the evaluation of the holdout. Run
the pipeline on a machine that does nothing else; a model that it took from its cache has no run
and is left out.
"""

import json
from pathlib import Path

from mlflow import MlflowClient

import stages  # puts this copy's src first
from benchmarks.machine import machine
from charlm.config import params
from charlm.errors import UserError
from charlm.files import write_json
from charlm.models.base import start_torch
from charlm.tracking import address, weights_digest

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/training_time.json"


def training_seconds(root: Path, settings: params.Params) -> dict[str, float]:
    """Return the seconds that made the weights in models/, by name.

    Raises:
        UserError: no run of the project's MLflow database made any of them.
    """
    client = MlflowClient(address(root))
    experiment = client.get_experiment_by_name(settings.corpus.name)
    seconds = {}
    for name in settings.entries:
        made = f"tags.weights_sha256 = '{weights_digest(root / 'models' / name)}'"
        runs = experiment and client.search_runs([experiment.experiment_id], made, max_results=1)
        if runs:
            seconds[name] = round(runs[0].data.metrics["train_seconds"], 1)
    for name, entry in settings.mixtures.items():
        # A mixture has its members trained; finding its weights comes on top.
        if {name, *entry.members} <= set(seconds):
            members = sum(seconds[member] for member in entry.members)
            seconds[name] = round(seconds[name] + members, 1)
    if not seconds:
        raise UserError("no MLflow run made the weights in models/: run `dvc repro --force` first")
    return seconds


def main() -> None:
    """Write the seconds of each model at the scale in params.yaml."""
    settings = params.load(ROOT / "params.yaml")
    seconds = training_seconds(ROOT, settings)
    write_json(
        OUTPUT,
        {
            "command": "make repro && python -m benchmarks.training_time",
            "scale": settings.scale,
            "machine": machine(start_torch()),
            "seconds": seconds,
        },
    )
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
