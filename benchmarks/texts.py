"""Other kinds of text, without touching a parameter: `python -m benchmarks.texts NAME=FILE ...`.

Each text, of at most 4 million characters, goes through the pipeline at scale quick, with the
models that are compared and nothing else: counting (`kneser_ney`), the default (`ngram_lstm`), one
LSTM and the mixture, beside PPMd. Adds to benchmarks/texts.json. The recorded texts:

    german   the files of Debian's fortunes-de, in the order of their names
    python   the modules of CPython 3.11's Lib, top level, the first 1.2 million characters
    names    the 88,799 family names of the PyPI package names 0.3.0, a line each, shuffled
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

import stages
from benchmarks.machine import machine
from charlm.cli import script
from charlm.entropy import measurements
from charlm.errors import UserError
from charlm.files import read_json, sha256, write_json
from charlm.models.base import start_torch
from tests.workspace import copy_project, environment

ROOT = Path(stages.__file__).parent.parent
OUTPUT = ROOT / "benchmarks/texts.json"
ZOO = ("kneser_ney", "ngram_lstm", "lstm", "mixture")


def measure(name: str, file: Path, folder: Path) -> dict[str, Any]:
    """Run the pipeline on a text in a copy of the project; return its losses."""
    copy_project(
        folder,
        ZOO,
        corpus__path=str(file.resolve()),
        corpus__name=name,
        dynamic_evaluation=False,
    )
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    command = [sys.executable, "-m", "charlm", "repro"]
    variables = environment() | {"PYTHONPATH": str(folder / "src")}
    subprocess.run(command, cwd=folder, env=variables, check=True)
    results = folder / "results"
    entropy = read_json(results / "entropy.json")
    ppmd = next(row for row in entropy["compressors"] if row["name"] == "ppmd")
    losses = {
        model: {
            part: leaf["bits_per_char"]
            for part, leaf in read_json(results / model / "metrics.json")["streaming"].items()
        }
        for model in ZOO
    }
    return {
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
        "characters": entropy["characters"],
        "symbols": entropy["symbols"],
        "ppmd": ppmd["holdout"]["bits_per_char"],
        "bits_per_char": losses,
        "machine": machine(start_torch()),
        "python": platform.python_version(),
    }


@script(__doc__)
@click.argument("texts", nargs=-1, required=True, metavar="NAME=FILE ...")
def main(texts: tuple[str, ...]) -> None:
    """Measure each text and add it to the record."""
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not Path(file).is_file():
            raise UserError(f"'{text}' is no NAME=FILE of a file that is there")
        if (characters := len(Path(file).read_text(encoding="utf-8"))) > measurements.LARGE:
            raise UserError(
                f"{file} has {characters:,} characters: of more than {measurements.LARGE:,} the "
                "pipeline measures no compressors to compare with"
            )
    os.chdir(ROOT)
    for text in texts:
        name, _, file = text.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, Path(file), Path(folder) / "charlm")
        content = read_json(OUTPUT) if OUTPUT.is_file() else {"texts": {}}
        content["command"] = "python -m benchmarks.texts NAME=FILE ..."
        content["texts"][name] = found
        write_json(OUTPUT, content)
        losses = {
            model: round(bits["holdout"], 4) for model, bits in found["bits_per_char"].items()
        }
        print(f"{name}: {found['characters']:,} characters, ppmd {found['ppmd']:.4f}, {losses}")


if __name__ == "__main__":
    main()
