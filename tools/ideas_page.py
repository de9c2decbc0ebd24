"""Write the ideas with their figures into docs/ideas.md: `python -m tools.ideas_page`."""

from typing import Any

from charlm.files import read_json, write_text
from charlm.report.ideas import FAMILIES
from tests.workspace import PROJECT

PAGE, RECORD = PROJECT / "docs/ideas.md", PROJECT / "benchmarks/ideas.json"
MARK = "<!-- python -m tools.ideas_page writes what follows from benchmarks/ideas.json -->\n"

INTRODUCTIONS = {
    "counting": """\
How far does one get by counting what follows what? The error is over pieces of the text, where
nothing is drawn at random.
""",
    "characters": "Networks that see one character, or a few.\n",
    "attention": """\
`transformer`, of which every part can be left out: 2 layers, 64 wide, 800 steps of 16 times 64
characters. The first ideas build it up, the others change the full model.
""",
    "recurrence": """\
`recurrent`: 215 thousand parameters, 500 steps of 32 times 64 characters, which is the text once.
""",
    "learning": "The LSTM of above, trained in other ways.\n",
    "together": "Models on top of others, and beside them.\n",
}


def written(record: dict[str, Any]) -> str:
    """Return the part of the page that follows from the record."""
    ideas = record["ideas"]
    lines = []
    for family, title in FAMILIES.items():
        rows = {
            name: row for name, row in ideas.items() if row["family"] == family and row["bought"]
        }
        if not rows:
            continue
        lines += [f"\n## {title}\n", INTRODUCTIONS[family]]
        for name, row in rows.items():
            gained = worth(row, ideas[row["base"]])
            lines.append(f"**{row['title']}** (`{name}`). {row['question']} {gained}")
            lines.append(f"{row['answer'] or ''} ({row['source']})".strip() + "\n")
    return "\n".join(lines)


def worth(row: dict[str, Any], base: dict[str, Any]) -> str:
    """Return what an idea buys and what it costs, in a sentence each."""
    bought = row["bought"]
    mean, error = bought["validation"], bought["error"]
    told = "" if bought["verdict"] != "cannot be told" else ": that cannot be told from chance"
    losses = f"({base['validation']:.3f} → {row['validation']:.3f})"
    gain = f"*{mean:+.4f} ± {error:.4f} bits{told}* {losses}"
    return f"{gain}; {price(row, base)}."


def price(row: dict[str, Any], base: dict[str, Any]) -> str:
    """Return the price of an idea: parameters and time."""
    parts = []
    if row["parameters"] == base["parameters"]:
        parts.append("as many parameters")
    else:
        parts.append(f"{row['parameters'] / base['parameters']:.2f} times the parameters")
    if row["seconds"] and base["seconds"]:
        per_character = row["seconds"] / row["characters"] * base["characters"] / base["seconds"]
        parts.append(f"{per_character:.2f} times the time")
    return ", ".join(parts)


def main() -> None:
    """Write the page."""
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    write_text(PAGE, head + MARK + written(read_json(RECORD)))


if __name__ == "__main__":
    main()
