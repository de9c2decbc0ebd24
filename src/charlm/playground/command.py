"""The command `play`: all trained models in one HTML file."""

import base64
import importlib.resources
import math
import re
from pathlib import Path
from typing import Any

import click

from charlm import results
from charlm.cli import one_line_errors, progress
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import write_text
from charlm.playground import pack
from charlm.report.templating import render

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")
OUTPUT = Path("reports/playground.html")

SCRIPT = "models.js"
"""The models in JavaScript."""

OTHERS = (("attention", "gpt", "transformer"), ("kneser_ney", "add_one"))
"""Families of which the best is shown beside the best of all: they can be looked into, or count."""

UNSEEN, TYPED = 10_000, 80
"""Characters of the test split that the page holds, and those that are typed in at first."""


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="The file."
)
@one_line_errors
def main(output: Path) -> None:
    """Write one HTML file that holds every ranked model and runs it in the browser.

    It needs no server and no network, and can be mailed. A model of your own is left out until it
    is written in JavaScript too, in src/charlm/playground/models.js.

    \b
    Example:
      charlm play
    """
    settings = params.load()
    there = [name for name in settings.ranked if (MODELS / name / "config.json").is_file()]
    if not there:
        raise UserError("no models in models/: run `dvc repro` or `dvc pull` first")
    archive, models, symbols = packed(there)
    write_text(output, page(settings.corpus.name, archive, models, symbols))
    size = output.stat().st_size / 1e6
    click.echo(f"{output}: {len(models)} models, {size:.1f} MB: open it in a browser", err=True)
    if left_out := [name for name in there if name not in models]:
        click.echo(f"left out, because {SCRIPT} has no such model: {', '.join(left_out)}", err=True)


def packed(names: list[str]) -> tuple[pack.Archive, dict[str, Any], str]:
    """Return the archive, what the page has to know of each model, the best first, and the symbols.

    Models that are not written in JavaScript are left out.

    Raises:
        UserError: a model is damaged, or of another text than the others; or none is left.
    """
    import torch

    from charlm import saved_model

    # The page plays with the encoded text.
    archive = pack.Archive()
    vocabularies = {Vocabulary.load(ENCODED / "vocabulary.json").symbols}
    models: dict[str, Any] = {}
    in_javascript = written()
    with progress(len(names), "model", "packing") as bar:
        for name in names:
            bar.update()
            model, config = saved_model.load(MODELS / name, torch.device("cpu"))
            if not pack.kinds(config.model, config.architecture) <= in_javascript:
                continue
            tensors = {key: values.numpy() for key, values in model.state_dict().items()}
            vocabularies.add(config.symbols)
            found = pack.model(
                archive,
                config.model,
                config.block,
                config.architecture,
                tensors,
                len(config.symbols),
            )
            models[name] = {"bits": ranked_by(name), "packed": found}
    if not models:
        raise UserError(f"none of these models is written in JavaScript, in {SCRIPT}")
    if len(vocabularies) > 1:
        raise UserError(
            "the models and the encoded text have different vocabularies: run `dvc repro`"
        )
    by_rank = sorted(models.items(), key=lambda item: item[1]["bits"] or math.inf)
    return archive, dict(by_rank), vocabularies.pop()


def written() -> set[str]:
    """Return the architectures that are written in JavaScript."""
    script = importlib.resources.files("charlm.playground") / SCRIPT
    return set(re.findall(r"^KINDS\.(\w+) = ", script.read_text(encoding="utf-8"), re.MULTILINE))


def ranked_by(name: str) -> float | None:
    """Return what a model is ranked by; None without results of these weights."""
    try:
        return results.validation_bits(RESULTS / name / "metrics.json", MODELS / name)
    except UserError:
        return None


def page(text: str, archive: pack.Archive, models: dict[str, Any], symbols: str) -> str:
    """Return the page.

    Args:
        text: name of the corpus.
        archive: arrays of all models.
        models: by name, the best first.
        symbols: of the vocabulary.
    """
    unseen = from_a_line(Vocabulary(symbols).decode(encoding.load_split(ENCODED, "test")))[:UNSEEN]
    alone = [name for name, model in models.items() if model["packed"]["kind"] != "ensemble"]
    shown = [*alone[:1], *(best(family, alone, models) for family in OTHERS)]
    shown = list(dict.fromkeys(name for name in shown if name))
    here = importlib.resources.files("charlm.playground")
    scripts = [(here / name).read_text(encoding="utf-8") for name in (SCRIPT, "page.js")]
    return render(
        "page.html.j2",
        "charlm.playground",
        text=text,
        prompt=unseen[:TYPED],
        models={
            "symbols": symbols,
            "arrays": archive.arrays,
            "models": models,
            "chosen": shown[:2],
            "players": shown,
            "unseen": unseen,
        },
        archive=base64.b64encode(archive.content()).decode(),
        scripts="\n".join(script.replace('"use strict";\n', "") for script in scripts),
    )


def from_a_line(text: str) -> str:
    """Return a text from its first line's beginning; all of it if it has one line."""
    return text[text.find("\n") + 1 :].lstrip("\n") or text


def best(family: tuple[str, ...], names: list[str], models: dict[str, Any]) -> str | None:
    """Return the first of the names whose architecture is of a family."""
    return next((name for name in names if models[name]["packed"]["kind"] in family), None)


if __name__ == "__main__":
    main()
