"""Two revisions of the project side by side: `charlm compare REVISION [REVISION]`."""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError
from charlm.files import write_text
from charlm.report.leaderboard import HELD_OUT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKSPACE = "workspace"
VISIBLE = 5e-5
"""Bits per character: a difference that four digits show."""

LOSSES = "reports/validation_bits_per_char.json"
LEADERBOARD, CURVES, REPORT = (
    f"reports/{name}" for name in ("leaderboard.json", "curves.json", "report.html")
)


@dataclass(frozen=True)
class Revision:
    """The parameters and the results of a revision of the project.

    Attributes:
        name: as the user wrote it.
        params: content of params.yaml.
        rows: content of reports/leaderboard.json.
        curves: content of reports/curves.json; empty if no cache here has it.
        report: content of reports/report.html; likewise.
    """

    name: str
    params: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    report: str


@click.command()
@click.argument("first")
@click.argument("second", default=WORKSPACE)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("reports/compare.html"),
    show_default=True,
    help="File to write.",
)
@one_line_errors
def main(first: str, second: str, output: Path) -> None:
    """Compare two revisions: what differs, and below it both reports side by side.

    A revision is a branch, a tag, a commit, the name of an experiment or `workspace`.

    \b
    Examples:
      charlm compare HEAD
      charlm compare main lower-uvea
    """
    before, after = read(first), read(second)
    write_text(output, as_html(before, after))
    for line in as_text(before, after):
        click.echo(line)
    click.echo(f"the reports side by side: {output}", err=True)


def read(name: str) -> Revision:
    """Read a revision.

    Raises:
        UserError: there is no such revision, or it has no results.
    """
    try:
        text, rows = _read(name, "params.yaml"), _read(name, LEADERBOARD)
    except FileNotFoundError as error:
        raise UserError(f"{name} has no {error}: run `dvc repro` there, or name another") from None
    curves, report = "[]", ""
    try:
        # These are in DVC's cache, not in git: a clone that has not pulled them lacks them.
        curves, report = _read(name, CURVES), _read(name, REPORT)
    except FileNotFoundError as error:
        click.echo(f"{name}: {error} is not in the cache here (dvc fetch -A)", err=True)
    return Revision(
        name,
        params.content(text, f"{name}: params.yaml"),
        _table(name, LEADERBOARD, rows),
        _table(name, CURVES, curves),
        report,
    )


def _table(name: str, path: str, text: str) -> Any:
    """Return the content of a JSON file of a revision.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{name}: {path} is damaged ({error})") from None


def _read(revision: str, path: str) -> str:
    """Return the content of a file of a revision.

    Args:
        revision: as the user wrote it.
        path: relative to the project's folder, which is the working directory.

    Raises:
        FileNotFoundError: the revision has no such file.
        UserError: there is no such revision.
    """
    if revision == WORKSPACE:
        try:
            return Path(path).read_text(encoding="utf-8")
        except OSError:
            raise FileNotFoundError(path) from None
    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError, PathMissingError
    from dvc.repo import Repo
    from dvc.scm import SCM, RevError

    try:
        # Paths of a revision begin at the root of the git repository, which may lie above ours.
        root = Path(SCM(Repo.find_root()).root_dir).resolve()
        from_root = Path.cwd().resolve().relative_to(root) / path
        return str(dvc.api.read(from_root.as_posix(), rev=revision, encoding="utf-8"))
    except (FileMissingError, PathMissingError, FileNotFoundError):
        raise FileNotFoundError(path) from None
    except (RevError, DvcException) as error:
        raise UserError(f"{revision}: {error}") from None


def changed_parameters(first: Any, second: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key and both values wherever two contents of params.yaml differ; None is missing.

    >>> list(changed_parameters({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}))
    [('a.b', 1, 3)]
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for name in [*first, *(name for name in second if name not in first)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from changed_parameters(first.get(name), second.get(name), inner)
    elif first != second:
        yield key, first, second


def changed_losses(first: Revision, second: Revision) -> list[dict[str, Any]]:
    """Return the streaming losses of the models that differ, in bits per character.

    Returns:
        a row per model, the largest gain on validation first: its name and, by part of the text,
        the loss in both revisions and the difference, None where a revision has no such model.
    """
    before, after = (_losses(revision) for revision in (first, second))
    rows = []
    for name in before | after:
        row: dict[str, Any] = {"model": name}
        for part in HELD_OUT:
            old, new = before.get(name, {}).get(part), after.get(name, {}).get(part)
            difference = None if old is None or new is None else new - old
            row[part] = (old, new, difference)
        if row["holdout"][2] != 0:
            rows.append(row)
    return sorted(rows, key=lambda row: row["validation"][2] or math.inf)


def _losses(revision: Revision) -> dict[str, dict[str, float]]:
    """Return bits per character, streaming, by model and part of the text."""
    return {
        row["model"]: {part: row["streaming"][part]["bits_per_char"] for part in HELD_OUT}
        for row in revision.rows
    }


def as_text(first: Revision, second: Revision) -> list[str]:
    """Return what differs as lines for a terminal."""
    lines = [
        f"{key}: {before} -> {after}"
        for key, before, after in changed_parameters(first.params, second.params)
    ]
    lines += [_line(row["model"], *row["validation"][:2]) for row in changed_losses(first, second)]
    return lines or ["nothing differs"]


def _line(name: str, before: float | None, after: float | None) -> str:
    """Return a change of a model's validation loss for a terminal."""
    losses = " -> ".join("-" if bits is None else f"{bits:.4f}" for bits in (before, after))
    gain = "" if before is None or after is None else f" ({after - before:+.4f})"
    return f"{name}: validation {losses} bits per character{gain}"


def since_baseline(now: dict[str, float]) -> list[str]:
    """Return a line for each model whose loss is not that of the commit that this started from.

    That is the baseline of an experiment, or the last commit. Where there is none, or git knows no
    losses of it, there are no lines. What four digits do not show is no difference; another kind of
    processor rounds to more than that.

    Args:
        now: validation bits per character, streaming, by model.
    """
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
    command = ["git", "show", f"{revision}:./{LOSSES}"]
    try:
        shown = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        before = dict(json.loads(shown))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return []
    pairs = {name: (before.get(name), now.get(name)) for name in now | before}
    return [
        _line(name, old, new)
        for name, (old, new) in pairs.items()
        if old is None or new is None or abs(new - old) >= VISIBLE
    ]


def as_html(first: Revision, second: Revision) -> str:
    """Return compare.html."""
    from charlm.report import figures
    from charlm.report.templating import render

    losses = changed_losses(first, second)
    figure = curves(first, second, [row["model"] for row in losses])
    return render(
        "compare.html.j2",
        first=first,
        second=second,
        parts=HELD_OUT,
        parameters=list(changed_parameters(first.params, second.params)),
        losses=losses,
        curves=figures.as_svg(figure, "curves") if figure else "",
    )


def curves(first: Revision, second: Revision, names: list[str]) -> "Figure | None":
    """Return the curves of some models, dashed in the first revision; None if there are none."""
    from charlm.report import figures

    if not any(point["model"] in names for each in (first, second) for point in each.curves):
        return None
    figure, axes = figures.single_axes()
    figures.style(axes)
    for name, colour in zip(names, figures.colours(len(names)), strict=True):
        for revision, line in ((first, "--"), (second, "-")):
            points = [point for point in revision.curves if point["model"] == name]
            axes.plot(
                [point["characters"] for point in points],
                [point["bits_per_char"] for point in points],
                line,
                color=colour,
                label=name if line == "-" else None,
            )
    axes.set_xlabel("characters trained on")
    axes.set_ylabel("validation, bits per character (estimate)")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    main()
