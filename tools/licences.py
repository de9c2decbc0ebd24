"""What the pinned packages are licensed under: `python -m tools.licences > docs/licences.md`."""

from importlib import metadata

from charlm.cli import script
from tests.workspace import PROJECT

HEAD = """# Licences of what requirements.lock installs

As the packages' own metadata state them (`python -m tools.licences`). charlm itself is under the
MIT licence (LICENSE).

| package | version | licence |
|---|---|---|"""
UNSAID = "see the package"
LONGEST = 60


def licence(package: str) -> str:
    """Return a package's licence in a few words: its SPDX expression, classifiers, or own words."""
    about = metadata.metadata(package)
    if expression := about.get("License-Expression"):
        return str(expression)
    named = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: OSI Approved :: ")
    ]
    words = " ".join((about.get("License") or "").split())
    return ", ".join(named) or (words if 0 < len(words) <= LONGEST else UNSAID)


def table() -> str:
    """Return the whole document."""
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").split()
    rows = [
        (name, version, licence(name)) for name, version in (line.split("==") for line in lines)
    ]
    return "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in rows)])


@script(__doc__)
def main() -> None:
    """Print the document."""
    print(table())


if __name__ == "__main__":
    main()
