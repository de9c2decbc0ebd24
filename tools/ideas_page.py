"""Write the ideas with their figures into docs/ideas.md: `python -m tools.ideas_page`."""

from typing import Any

from charlm.cli import script
from charlm.files import read_json, write_text
from charlm.report.ideas import FAMILIES, out_of_date
from tests.workspace import PROJECT

PAGE, RECORD = PROJECT / "docs/ideas.md", PROJECT / "benchmarks/ideas.json"
MARK = "<!-- python -m tools.ideas_page writes what follows from benchmarks/ideas.json -->\n"

INTRODUCTIONS = {
    "counting": """\
Counting has nothing random in it, so the error of n-grams is over pieces of the text. Rows with an
LSTM have three seeds, as elsewhere.
""",
    "characters": "Networks that see one character, or a few.\n",
    "attention": """\
`transformer`, of which every part can be left out: 2 layers, 64 wide, 800 steps of 16 times 64
characters. The first rows build it up, each from the row above. The others change one part of the
full transformer.
""",
    "recurrence": """\
`recurrent`: 215 thousand parameters, 500 steps of 32 times 64 characters, which is the text once.
""",
    "learning": "The LSTM of the section above, trained in other ways.\n",
    "together": "Models on top of others, and beside them.\n",
}
HEADINGS = ["change", "from", "gain, bits", "parameters", "time", "remark"]


def written(record: dict[str, Any]) -> str:
    """Return the part of the page that follows from the record."""
    ideas = record["ideas"]
    old = out_of_date(ideas)
    lines = []
    for family, title in FAMILIES.items():
        rows = [
            cells(name, row, ideas[row["base"]])
            for name, row in ideas.items()
            if row["family"] == family and row["gain"] and name not in old
        ]
        if not rows:
            continue
        lines += [f"\n## {title}\n", INTRODUCTIONS[family]]
        lines += [line(row) for row in (HEADINGS, ["---"] * len(HEADINGS), *rows)]
    return "\n".join(lines) + "\n"


def line(row: list[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(row)} |"


def cells(name: str, row: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return what the table says of an idea."""
    gain = row["gain"]
    error = "" if gain["error"] is None else f" ± {gain['error']:.4f}"
    worth = f"{gain['validation']:+.4f}{error}"
    if gain["verdict"] == "not significant":
        worth = f"*{worth}*"
    remark = f"{row['answer'] or ''} ({row['source']})".strip()
    parameters = f"{row['parameters'] / base['parameters']:.2f} x"
    time = ""
    if row["seconds"] and base["seconds"]:
        per_character = row["seconds"] / row["characters"] * base["characters"] / base["seconds"]
        time = f"{per_character:.2f} x"
    losses = f"({base['validation']:.3f} → {row['validation']:.3f})"
    change = f"{row['title']} (`{name}`)"
    return [change, base["title"], f"{worth} {losses}", parameters, time, remark]


@script(__doc__)
def main() -> None:
    """Write the page."""
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    write_text(PAGE, head + MARK + written(read_json(RECORD)))


if __name__ == "__main__":
    main()
