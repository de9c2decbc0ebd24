"""Two revisions side by side: `python -m charlm.report.compare REVISION [REVISION]`."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from charlm.cli import one_line_errors
from charlm.errors import UserError
from charlm.files import write_text

WORKSPACE = "workspace"
SPLITS = ("validation", "test", "holdout")


@dataclass(frozen=True)
class Revision:
    """What a revision of the project has to show.

    Attributes:
        name: as the user put it.
        params: content of params.yaml.
        rows: content of reports/leaderboard.json.
        curves: content of reports/curves.json; empty if no cache here has it.
        report: reports/report.html; likewise.
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
    """Put the reports of two revisions side by side, and what differs above them.

    A revision is a branch, a tag, a commit, the name of an experiment or `workspace`.

    \b
    Examples:
      python -m charlm.report.compare HEAD
      python -m charlm.report.compare main lower-uvea
    """
    both = read(first), read(second)
    write_text(output, page(*both))
    for line in as_text(*both):
        click.echo(line)
    click.echo(f"the reports side by side: {output}", err=True)


def read(name: str) -> Revision:
    """Read a revision.

    Raises:
        UserError: there is no such revision, or it has no results.
    """
    try:
        text, rows = _read(name, "params.yaml"), _read(name, "reports/leaderboard.json")
    except FileNotFoundError as error:
        raise UserError(f"{name} has no {error}: run `dvc repro` there, or name another") from None
    curves, report = "[]", ""
    try:
        # DVC keeps these: a clone that has not pulled them has them not.
        curves, report = _read(name, "reports/curves.json"), _read(name, "reports/report.html")
    except FileNotFoundError as error:
        click.echo(f"{name}: {error} is not in the cache here (dvc fetch -A)", err=True)
    params = YAML(typ="safe", pure=True).load(text)
    return Revision(name, params, json.loads(rows), json.loads(curves), report)


def _read(revision: str, path: str) -> str:
    """Return a file of a revision.

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
    from dvc.scm import RevError

    try:
        return str(dvc.api.read(path, rev=revision, encoding="utf-8"))
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
    """Return bits per character, streaming, of the models that differ, the largest gain first.

    Returns:
        a row a model: its name and, by split, both values and their difference, None where one
        of the revisions has no such model.
    """
    by_name: list[dict[str, dict[str, float]]] = [
        {
            row["model"]: {split: row["streaming"][split]["bits_per_char"] for split in SPLITS}
            for row in each.rows
        }
        for each in (first, second)
    ]
    found = []
    for name in by_name[0] | by_name[1]:
        row: dict[str, Any] = {"model": name}
        for split in SPLITS:
            before, now = (rows.get(name, {}).get(split) for rows in by_name)
            difference = None if before is None or now is None else now - before
            row[split] = (before, now, difference)
        if row["holdout"][2] != 0:
            found.append(row)
    return sorted(found, key=lambda row: row["validation"][2] or math.inf)


def as_text(first: Revision, second: Revision) -> list[str]:
    """Return what differs as lines for a terminal."""
    lines = [
        f"{key}: {before} -> {now}"
        for key, before, now in changed_parameters(first.params, second.params)
    ]
    for row in changed_losses(first, second):
        before, now, difference = row["validation"]
        shown = " -> ".join("-" if bits is None else f"{bits:.4f}" for bits in (before, now))
        gain = "" if difference is None else f" ({difference:+.4f})"
        lines.append(f"{row['model']}: validation {shown} bits per character{gain}")
    return lines or ["nothing differs"]


def page(first: Revision, second: Revision) -> str:
    """Return compare.html."""
    from charlm.report import page

    losses = changed_losses(first, second)
    return page.render(
        "compare.html.j2",
        both=(first, second),
        parameters=list(changed_parameters(first.params, second.params)),
        losses=losses,
        curves=_draw(first, second, [row["model"] for row in losses]),
    )


def _draw(first: Revision, second: Revision, names: list[str]) -> str:
    """Return the curves of some models, dashed in the first revision, as SVG; "" without any."""
    from charlm.report import page

    figure, axes = page.axes_alone()
    for name, colour in zip(names, page.colours(len(names)), strict=True):
        for revision, style in ((first, "--"), (second, "-")):
            points = [point for point in revision.curves if point["model"] == name]
            axes.plot(
                [point["characters"] for point in points],
                [point["bits_per_char"] for point in points],
                style,
                color=colour,
                label=name if style == "-" else None,
            )
    if not any(line.get_xydata().size for line in axes.lines):
        return ""
    axes.set_xlabel("characters trained on")
    axes.set_ylabel("validation, bits per character (estimate)")
    figure.legend(loc="outside right upper", frameon=False)
    return page.as_svg(figure, "curves")


if __name__ == "__main__":
    main()
