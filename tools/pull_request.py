"""What a change does to the loss of each model: `python -m tools.pull_request BASE FOLDER`.

It runs the graph at scale smoke where HEAD left BASE and at HEAD (a few minutes each), and writes
FOLDER/comment.md, with FOLDER/curves.png, as a comment on a pull request. What is not committed is
left out.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import click
from ruamel.yaml import YAML

from charlm.cli import one_line_errors
from charlm.errors import UserError
from charlm.files import read_json, write_text
from charlm.report.compare import (
    CURVES,
    LEADERBOARD,
    VISIBLE,
    Revision,
    changed_losses,
    changed_parameters,
    curves,
)
from tests.workspace import PROJECT, absolute_sources, change, environment


@click.command()
@click.argument("base")
@click.argument("folder", type=click.Path(path_type=Path))
@one_line_errors
def main(base: str, folder: Path) -> None:
    """Write what HEAD changes since it left BASE, a branch or a commit, into FOLDER."""
    found = subprocess.run(
        ["git", "merge-base", base, "HEAD"], cwd=PROJECT, capture_output=True, text=True
    )
    if found.returncode:
        raise UserError(f"{base}: {found.stderr.strip() or 'it has no commit in common with HEAD'}")
    for name, commit in (("base", found.stdout.strip()), ("head", "HEAD")):
        shutil.rmtree(folder / name, ignore_errors=True)
        checkout(commit, folder / name)
        run_graph(folder / name)
    before, after = (read(folder / name / ".smoke", name) for name in ("base", "head"))
    write(before, after, folder)


def checkout(commit: str, folder: Path) -> None:
    """Put the files of a commit into a folder."""
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", commit], cwd=PROJECT, stdout=subprocess.PIPE, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    change(folder, corpus__sources=absolute_sources())
    # The pipeline is run in a copy of what git tracks.
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def run_graph(folder: Path) -> None:
    """Run the whole graph at scale smoke, with that commit's code."""
    variables = environment() | {"PYTHONPATH": str(folder.resolve() / "src")}
    command = [sys.executable, "-m", "tests.workspace", ".smoke"]
    if subprocess.run(command, cwd=folder, env=variables).returncode:
        raise UserError(f"the pipeline of {folder.name} failed, see above")


def read(folder: Path, name: str) -> Revision:
    """Read the parameters and the results of a folder in which the graph was run."""
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    params = YAML(typ="safe", pure=True).load(text)
    params["corpus"].pop("sources")  # name the folder
    return Revision(
        name, params, read_json(folder / LEADERBOARD), read_json(folder / CURVES), report=""
    )


def write(before: Revision, after: Revision, folder: Path) -> None:
    """Write comment.md, and curves.png if a curve changed."""
    losses = [row for row in changed_losses(before, after) if visible(row["validation"])]
    lines = ["### What this changes", ""]
    if losses:
        lines += [
            "Validation, streaming, bits per character, at scale smoke: trainings of seconds, so",
            "this says whether something changed, not whether it is good.",
            "",
            "| model | before | after | change |",
            "|---|---|---|---|",
            *(f"| `{row['model']}` | {cells(*row['validation'])} |" for row in losses),
        ]
    else:
        lines.append("No loss changes at scale smoke.")
    if parameters := list(changed_parameters(before.params, after.params)):
        lines += ["", "| parameter | before | after |", "|---|---|---|"]
        lines += [f"| `{key}` | {old} | {new} |" for key, old, new in parameters]
    picture = curves(before, after, [row["model"] for row in losses])
    if picture is not None:
        picture.savefig(folder / "curves.png", dpi=120)
        lines += ["", "![Learning curves: dashed before, solid after](./curves.png)"]
    write_text(folder / "comment.md", "\n".join(lines) + "\n")


def visible(change: tuple[float | None, float | None, float | None]) -> bool:
    """Return whether four digits show a change: before, after, difference."""
    return change[2] is None or abs(change[2]) >= VISIBLE


def cells(before: float | None, after: float | None, difference: float | None) -> str:
    """Return cells of a table; a model that is not there has a dash."""
    numbers = ["-" if bits is None else f"{bits:.4f}" for bits in (before, after)]
    return " | ".join([*numbers, "-" if difference is None else f"{difference:+.4f}"])


if __name__ == "__main__":
    main()
