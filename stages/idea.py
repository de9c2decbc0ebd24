"""Measure one side of the comparisons of ideas/ideas.yaml."""

import os
import sys
from pathlib import Path
from typing import Any

# cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import click

from charlm.cli import one_line_errors
from charlm.config.messages import validate
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import read_json, write_json

ENCODED = Path("data/encoded")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default="ideas", help="Its pipeline's.")
@click.option("--name", required=True, help="A side, an ensemble or one of dynamic.")
@one_line_errors
def main(folder: Path, name: str) -> None:
    """Train and score one configuration with every seed.

    `charlm ideas` writes FOLDER/params.json and lets DVC run this; the results go to
    FOLDER/results/NAME.json. A stopped stage goes on where it stopped.

    \b
    Example:
      python -m stages.idea --name residual
    """
    file, models = folder / "params.json", folder / "models"
    content: dict[str, Any] = read_json(file)
    splits = encoding.load_splits(ENCODED)
    symbols = Vocabulary.load(ENCODED / "vocabulary.json").symbols

    from charlm.ideas import combination, side
    from charlm.training import job
    from charlm.training.checkpoint import Interrupted

    def say(line: str) -> None:
        click.echo(line, err=True)

    if name in content["sides"]:
        described = validate(side.Side, content["sides"][name], str(file))
        text = job.Text(splits, symbols, sorted(ENCODED.glob("*.npy")))
        (models / name).mkdir(parents=True, exist_ok=True)
        try:
            found = side.Measurement(name, described, text, folder, say).results()
        except Interrupted as stopped:
            say(f"{name}: {stopped}; `charlm ideas` goes on from there")
            sys.exit(stopped.status)
        write_json(folder / "results" / f"{name}.json", found)
        return
    if name in content["ensembles"]:
        ensemble = validate(combination.Ensemble, content["ensembles"][name], str(file))
        results = {
            member: result_of(folder, member) for member in (ensemble.first, ensemble.second)
        }
        runs = combination.measure_ensemble(ensemble, results, models, splits, symbols)
    elif name in content["dynamic"]:
        learning = validate(combination.Learning, content["dynamic"][name], str(file))
        results = {learning.model: result_of(folder, learning.model)}
        runs = combination.measure_dynamic(learning, results, models, splits, symbols)
    else:
        raise UserError(f"{file} has no '{name}'")
    found = {"side": name, "rates": {}, "runs": runs}
    write_json(folder / "results" / f"{name}.json", found)


def result_of(folder: Path, name: str) -> dict[str, Any]:
    """Return the results of a side."""
    found: dict[str, Any] = read_json(folder / "results" / f"{name}.json")
    return found


if __name__ == "__main__":
    main()
