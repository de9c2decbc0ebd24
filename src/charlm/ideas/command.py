"""The command `ideas`: measure what each idea gains."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from charlm.cli import one_line_errors
from charlm.data import encoding
from charlm.errors import UserError
from charlm.files import read_json, write_bytes, write_json, write_text
from charlm.ideas import catalogue, code

FOLDERS = {"quick": Path("ideas"), "smoke": Path(".ideas_smoke")}
"""The pipeline's, by scale; that of smoke is a copy, so that nothing measured is lost."""

ENCODED = Path("data/encoded")


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    with contextlib.suppress(UserError):
        ideas = catalogue.load().content.ideas
        families = {idea.family for idea in ideas.values()}
        return sorted(name for name in {*ideas, *families} if name.startswith(incomplete))
    return []


@click.command()
@click.argument("names", nargs=-1, shell_complete=_complete)
@click.option(
    "--seeds",
    type=click.IntRange(min=2, max=100),
    default=3,
    show_default=True,
    help="Runs of each side, paired by their seed.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Sides at a time; as many as cores.")
@click.option(
    "--scale",
    type=click.Choice(["smoke", "quick"]),
    default="quick",
    show_default=True,
    help="smoke: a few steps of everything, to see that it runs; nothing is recorded.",
)
@one_line_errors
def main(names: tuple[str, ...], seeds: int, jobs: int | None, scale: str) -> None:
    """Measure what ideas gain, in bits per character.

    NAMES are ideas or families of ideas/ideas.yaml; without them, all of them. What was measured
    before is not measured again. Ctrl-C stops it, and the next call goes on from there.

    \b
    Examples:
      charlm ideas residual
      charlm ideas attention --seeds 5
    """
    ideas = catalogue.load()
    wanted = ideas.needed(names)
    if not (ENCODED / "vocabulary.json").is_file():
        raise UserError(f"no text in {ENCODED}: run `make repro`, or `dvc repro encode`, first")
    folder = FOLDERS[scale]
    content: dict[str, Any] = dict(ideas.stages(seeds, scale))
    content["text"] = encoding.describe(ENCODED)["digest"]
    content["code"] = code.digests({side["model"] for side in content["sides"].values()})
    with alone(folder):
        if status := reproduce(folder, content, ideas.sides(wanted), jobs or default_jobs()):
            sys.exit(status)
        report(ideas, content, wanted, names, folder)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one that measures ideas in a folder, and writes what came of it.

    Raises:
        UserError: there is another one.
    """
    (folder / ".dvc/tmp").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".dvc/tmp/charlm-ideas.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            "ideas are being measured in this folder already: wait until that ends, or stop it"
        ) from None
    with lock:
        yield


def default_jobs() -> int | None:
    """Return how many sides to measure at a time; None means as many as there are cores.

    On an accelerator they would fight for it, and their seconds would say so.
    """
    from charlm.models.base import start_torch

    return None if start_torch().type == "cpu" else 1


def report(
    ideas: catalogue.Catalogue,
    content: dict[str, Any],
    wanted: list[str],
    names: tuple[str, ...],
    folder: Path,
) -> None:
    """Print what each gains; record it and add it to MLflow, but for scale smoke.

    Args:
        ideas: the catalogue.
        content: of params.json.
        wanted: ideas that were measured.
        names: that were asked for.
        folder: of the pipeline.
    """
    from charlm.data.vocabulary import Vocabulary
    from charlm.ideas import record
    from charlm.report.ideas import out_of_date

    symbols = len(Vocabulary.load(ENCODED / "vocabulary.json").symbols)
    rows = record.rows(ideas, wanted, symbols, folder / "results")
    click.echo(table(rows, names))
    if folder == FOLDERS["smoke"]:
        return
    known = read_json(record.RECORD) if record.RECORD.is_file() else {"ideas": {}}
    measured = record.machine() | {"corpus": content["text"]}
    stamped = {name: row | measured for name, row in rows.items()}
    for name, row in stamped.items():
        before = known["ideas"].get(name, {})
        # What was not measured again keeps the day on which it was, and its own comparison.
        figures = ("validation", "seconds", "corpus")
        if all(before.get(key) == row[key] for key in figures):
            row |= {key: before[key] for key in measured}
            row["gain"] = row["gain"] or before["gain"]
    merged = {**known["ideas"], **stamped}
    order = [name for name in ideas.content.ideas if name in merged]
    write_json(
        record.RECORD,
        {
            "command": "make ideas",
            "ladders": {
                family: rungs
                for family, rungs in ideas.content.ladders.items()
                if set(rungs) <= set(merged)
            },
            "ideas": {name: merged[name] for name in order},
        },
    )
    if old := out_of_date(merged):
        click.echo(
            "out of date, because what they are compared with was measured anew: measure them "
            f"again with `charlm ideas {' '.join(old)}`",
            err=True,
        )
    from charlm.tracking import ideas as tracked

    families = {ideas.names[name]: row["family"] for name, row in rows.items()}
    tracked.add(content, families, folder)


def reproduce(folder: Path, content: dict[str, Any], targets: set[str], jobs: int | None) -> int:
    """Let DVC bring results up to date; return the exit status.

    Args:
        folder: of the pipeline.
        content: of its params.json.
        targets: names of sides, ensembles and dynamic evaluations.
        jobs: stages at a time.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from charlm.repro import command

    for file in ("dvc.yaml", ".dvcignore", ".dvc/config", ".gitignore"):
        if folder != FOLDERS["quick"]:
            write_bytes(folder / file, (FOLDERS["quick"] / file).read_bytes())
    try:
        # The project's own cache; the repository's .dvc may lie above the project.
        cache = Repo(".").cache.local.path
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None
    write_text(folder / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")
    write_json(folder / "params.json", content | {"folder": folder.name})
    stages = {"sides": "side", "ensembles": "ensemble", "dynamic": "dynamic"}
    addresses = [
        f"{stage}@{name}"
        for section, stage in stages.items()
        for name in content[section]
        if name in targets
    ]
    before = Path.cwd()
    os.chdir(folder)
    try:
        return command.reproduce(tuple(addresses), jobs)
    finally:
        os.chdir(before)


def table(rows: dict[str, dict[str, Any]], names: tuple[str, ...]) -> str:
    """Return what each gains as a table for a terminal.

    Args:
        rows: of ideas/record.
        names: that were asked for: ideas or families; none means all.
    """
    shown = {
        name: row
        for name, row in rows.items()
        if row["gain"] and (not names or name in names or row["family"] in names)
    }
    if not shown:
        return "no comparison among them: an idea without a base is where one begins"
    width = max(len(row["title"]) for row in shown.values())
    lines = [f"{'bits per character':{width}}  gain              verdict"]
    for row in shown.values():
        gain = row["gain"]
        error = "" if gain["error"] is None else f"± {gain['error']:.4f}"
        lines.append(
            f"{row['title']:{width}}  {gain['validation']:+.4f} {error:8}  {gain['verdict']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
