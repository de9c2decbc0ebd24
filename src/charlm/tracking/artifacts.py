"""Files of runs lie beside their database, also where the project was moved or copied to.

MLflow stores the absolute address of each file's folder. A database that came with its project to
another folder would send new files to the old one, and look for earlier ones there.
"""

import contextlib
import sqlite3
from pathlib import Path

FOLDER = "mlartifacts"
"""In the project's root, beside the database."""


def location(root: Path) -> str:
    """Return the address of the folder of a project's files."""
    return (root / FOLDER).absolute().as_uri()


def move_along(database: Path, root: Path) -> None:
    """Let a database name its project's folder where it names that of a project of before.

    Args:
        database: of SQLite, made by MLflow.
        root: the project's root.
    """
    new = location(root)
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments")
        for (address,) in found.fetchall():
            old, middle, _ = str(address).rpartition(f"/{FOLDER}")
            if address and old.startswith("file:") and middle and old + middle != new:
                _replace(connection, old + middle, new)


def _replace(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the beginning of all addresses, whatever table they stand in."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                    f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
