"""Bring MLflow in line with what lies in models/ and results/."""

import time
from pathlib import Path

import click

from charlm import tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import project_root, read_json
from charlm.report.leaderboard import read_curve

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")


@click.command()
@one_line_errors
def main() -> None:
    """Give each model that no run of the tracking server made a run of its own.

    What DVC restored from its cache, pulled from a remote, or trained while the server was away has
    none. Runs that are there are left as they are.

    \b
    Example:
      MLFLOW_TRACKING_URI=http://mlflow.example.org:5000 charlm track
    """
    settings = params.load()
    client = tracking.Client(settings.corpus.name, project_root())
    there = [name for name in settings.names if (MODELS / name / "weights.safetensors").is_file()]
    if not there:
        raise UserError("no models in models/: run `dvc repro` or `dvc pull` first")
    added = [name for name in there if add(client, name, settings)]
    if not client.works:
        raise UserError("MLflow is not in line: the tracking server failed, see above")
    listed = f": {', '.join(added)}" if added else ""
    click.echo(f"{len(there)} models, {len(added)} runs added{listed}", err=True)


def add(client: tracking.Client, name: str, settings: params.Params) -> bool:
    """Add the run of one model, if no run made its weights, and its results; say whether."""
    folder, results = MODELS / name, RESULTS / name
    weights = tracking.weights_digest(folder)
    missing = client.works and not client.knows(weights)
    if missing and client.works:
        config = read_json(folder / "config.json")
        files = [folder / "weights.safetensors", folder / "config.json"]
        entry, layers, curve = name, dict[str, float](), list[dict[str, float]]()
        if name in settings.runs:
            entry = settings.runs[name].entry
            files += [results / "curve.csv", results / "activations.json"]
            curve = read_curve(results / "curve.csv")
            layers = tracking.flow_metrics(read_json(results / "activations.json"))
        client.start(
            name,
            {"entry": entry, "scale": settings.scale}
            | {key: value for key, value in config.items() if key != "symbols"},
            {"charlm.added": "by charlm track, from files"},
            {"name": settings.corpus.name, **encoding.describe(ENCODED)},
        )
        for row in curve:
            client.point(*tracking.point_metrics(row), int(time.time() * 1000))
        client.finish(layers, {"weights_sha256": weights}, files)
    try:
        metrics = tracking.evaluation_metrics(results / "metrics.json", folder)
    except UserError as error:
        click.echo(f"{name}: without its results: {error}", err=True)
        return missing
    client.attach(weights, metrics, results_of(name))
    return missing


def results_of(name: str) -> list[Path]:
    """Return those files of later stages that are there; `name` is of a run or an ensemble."""
    files = [RESULTS / name / file for file in ("metrics.json", "sample.txt")]
    return [file for file in files if file.is_file()]


if __name__ == "__main__":
    main()
