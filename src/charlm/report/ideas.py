"""What each idea gains, as the report shows it: ladders, a table, and what lies behind each row."""

import html
from pathlib import Path
from typing import Any

from charlm.files import read_json

FAMILIES = {
    "counting": "Counting",
    "characters": "One character to many",
    "attention": "Attention",
    "recurrence": "Recurrence",
    "learning": "Learning",
    "together": "Putting together",
}
WIDTH, HEIGHT, EDGE = 300, 150, 26
"""Of the small picture of two curves, and room for its labels, in pixels."""

Row = dict[str, Any]


def load(path: Path, digest: str) -> dict[str, Any] | None:
    """Return the record of the ideas that were measured on a text; None if there are none.

    Args:
        path: of benchmarks/ideas.json.
        digest: of the encoded corpus.
    """
    if not path.is_file():
        return None
    record = read_json(path)
    ideas = {name: row for name, row in record["ideas"].items() if row["corpus"] == digest}
    if not ideas:
        return None
    for name in out_of_date(ideas):
        ideas[name] = ideas[name] | {"gain": None}
    whole = {name for name, row in ideas.items() if row["gain"] or not row["base"]}
    ladders = {family: rungs for family, rungs in record["ladders"].items() if whole >= set(rungs)}
    return {"command": record["command"], "ladders": ladders, "ideas": ideas}


def out_of_date(ideas: dict[str, Row]) -> list[str]:
    """Return the names of ideas whose base was measured anew, or on another text, since."""
    found = []
    for name, row in ideas.items():
        base = ideas.get(row["base"])
        if row["gain"] and (not base or base["validation"] != row["gain"]["base_validation"]):
            found.append(name)
    return found


def section(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a record.

    Returns:
        `ladders`, each a list of rungs from knowing nothing down; `rows` of the comparisons, in the
        order of the file, with a picture each; `families` by key; where and when it was measured
        (`origins`); how many `seeds` there are.
    """
    ideas = record["ideas"]
    compared = {name: row for name, row in ideas.items() if row["gain"]}
    measured = ("machine", "versions", "date")
    return {
        "ladders": {
            FAMILIES[family]: _rungs(rungs, ideas) for family, rungs in record["ladders"].items()
        },
        "rows": [_shown(name, row, ideas) for name, row in compared.items()],
        "families": FAMILIES,
        "command": record["command"],
        "origins": sorted({", ".join(row[key] for key in measured) for row in ideas.values()}),
        "seeds": sorted({len(row["seeds"]) for row in compared.values()} - {1}),
    }


def _rungs(names: list[str], ideas: dict[str, Row]) -> list[Row]:
    """Return the rungs of a ladder, each with the loss before and after it."""
    top = ideas[names[0]]["validation"] + ideas[names[0]]["from_nothing"]
    rungs = []
    for name in names:
        row = ideas[name]
        gain = row["gain"] or {
            "validation": row["from_nothing"],
            "error": None,
            "verdict": "gain",
        }
        rungs.append(
            {
                "name": name,
                "title": row["title"],
                "bits": gain["validation"],
                "error": gain["error"],
                "verdict": gain["verdict"],
                "after": row["validation"],
                # Shares of the whole way down, for the bar.
                "left": min(row["validation"], row["validation"] + gain["validation"]) / top,
                "width": abs(gain["validation"]) / top,
            }
        )
    return rungs


def _shown(name: str, row: Row, ideas: dict[str, Row]) -> Row:
    """Return a row of the table with its base."""
    base = ideas[row["base"]]
    speeds = [_speed(each) for each in (base, row)]
    return {
        **row,
        "name": name,
        "base_title": base["title"],
        "base_row": base,
        "speeds": speeds,
        "slower": speeds[0] / speeds[1] if speeds[0] and speeds[1] else None,
        "kinds": row["gain"]["kinds"],
        "picture": curves(base, row),
    }


def _speed(row: Row) -> float | None:
    """Return characters trained on per second of one side."""
    return row["characters"] / row["seconds"] if row["seconds"] else None


def curves(base: Row, idea: Row) -> str:
    """Return the loss curves of both sides as a small SVG; empty without both."""
    both = [[(point[0], point[2]) for point in side["curve"] if point[0]] for side in (base, idea)]
    if not all(len(points) > 1 for points in both):
        return ""
    xs, ys = ([point[axis] for points in both for point in points] for axis in (0, 1))
    low, high = min(ys), max(ys)
    span, most = (high - low) or 1.0, max(xs)

    def place(x: float, y: float) -> str:
        across = EDGE + (WIDTH - EDGE - 4) * x / most
        down = 6 + (HEIGHT - EDGE - 6) * (high - y) / span
        return f"{across:.1f},{down:.1f}"

    lines = "".join(
        f'<polyline class="{kind}" points="{" ".join(place(x, y) for x, y in points)}"/>'
        for kind, points in zip(("base", "idea"), both, strict=True)
    )
    floor = HEIGHT - EDGE
    label = html.escape(f"Validation loss while training: {base['title']}, and {idea['title']}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<path d="M{EDGE} 6V{floor}H{WIDTH - 4}"/>{lines}'
        f'<text x="{EDGE - 3}" y="12" text-anchor="end">{high:.2f}</text>'
        f'<text x="{EDGE - 3}" y="{floor}" text-anchor="end">{low:.2f}</text>'
        f'<text x="{WIDTH - 4}" y="{HEIGHT - 8}" text-anchor="end">'
        f"{_thousands(most)} characters trained on</text></svg>"
    )


def _thousands(count: float) -> str:
    """Return a number in thousands or millions.

    >>> _thousands(819_200), _thousands(1_024_000)
    ('819 thousand', '1.02 million')
    """
    if count >= 1e6:
        return f"{count / 1e6:.3g} million"
    return f"{count / 1e3:.0f} thousand" if count >= 1e3 else f"{count:.0f}"
