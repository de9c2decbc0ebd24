"""What the documents say exists: commands, options, make targets, parameters and files."""

import importlib
import itertools
import json
import os
import re
import shlex
import subprocess
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from charlm import __main__ as charlm
from charlm import search
from charlm.config import params
from charlm.report import published
from tests.workspace import PROJECT
from tools import licences

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").glob("*.md")),
)
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def blocks(*documents: str) -> list[list[str]]:
    """Return the commands of each of the documents' shell blocks (where there is a prompt, $)."""
    found = []
    for document in documents:
        text = (PROJECT / document).read_text()
        for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, re.S):
            lines = block.replace("\\\n", " ").splitlines()
            prompted = [line[2:] for line in lines if line.startswith("$ ")]
            found.append(prompted or [line for line in lines if line.strip()])
    return found


def commands(*documents: str) -> list[str]:
    """Return the commands of all blocks."""
    return [command for block in blocks(*documents) for command in block]


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def test_the_documents_have_commands():
    assert len(commands(*DOCUMENTS)) > 15


@pytest.mark.parametrize("command", sorted(set(commands(*DOCUMENTS))))
def test_a_command_of_the_documents_exists(command):
    first, *rest = words(command)
    while "=" in first:
        first, *rest = rest
    if first == "make":
        assert all(word in TARGETS for word in rest if "=" not in word), command
    elif first in ("python", "python3", "torchrun"):
        rest = rest[rest.index("-m") :]
        if rest[1] in ("venv", "pip", "mlflow"):
            return
        module = importlib.import_module(rest[1])
        if isinstance(module.main, click.Command) and "--help" not in rest:
            module.main.make_context(rest[1], rest[2:])
    elif first == "dvc":
        check_dvc(rest)
    elif first == "charlm":
        command = charlm.main.get_command(click.Context(charlm.main), rest[0])
        assert command is not None
        if "--help" not in rest:
            given = command.make_context(rest[0], rest[1:])
            for space in given.params.get("spaces", ()):
                search.check(search.read_space(space), params.read(PROJECT / "params.yaml"))
    else:
        assert first in (
            *("git", "cd", "source", "pip", "mlflow", "curl", "eval", "export", "dask"),
        ), command


def check_dvc(rest: list[str]) -> None:
    """Ask DVC's own parser, and check every -S against the schema of params.yaml."""
    from dvc.cli import parse_args

    parse_args(rest)
    overrides = [value for flag, value in itertools.pairwise(rest) if flag == "-S"]
    yaml = YAML(typ="safe")
    content = yaml.load(PROJECT / "params.yaml")
    for override in overrides:
        if override.startswith("~"):
            section, name = override[1:].split(".")
            del content[section][name]
            continue
        # Hydra adds what begins with a plus, and refuses any other key that is not there; two
        # pluses do either.
        signs = len(override) - len(override.lstrip("+"))
        key, value = override.lstrip("+").split("=", 1)
        inner = content
        *parents, last = key.split(".")
        for parent in parents:
            inner = inner[parent]
        assert signs == 2 or (last in inner) == (signs == 0), override
        # DVC's choice sweeps queue one experiment a value.
        sweep = re.fullmatch(r"[^\[{,]+(,[^,]+)+", value)
        inner[last] = yaml.load(value.split(",")[0] if sweep else value)
    params.parse(content, "README.md")


def test_the_file_maps_name_files_that_exist():
    readme, contributing = (
        (PROJECT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")
    )
    block = re.search(r"## Files\n.*?```\n(.*?)```", contributing, re.S)
    assert block
    named = [line.split()[0] for line in block[1].splitlines()]
    rows = re.search(r"\n\| \| \|\n.*?\n\n", readme, re.S)
    assert rows
    firsts = [row.split("|")[1] for row in rows[0].strip().splitlines()[2:]]
    for name in named + [name for first in firsts for name in re.findall(r"`([^`]+)`", first)]:
        # models/ is made by the pipeline, so a fresh clone has its .gitignore alone.
        assert (PROJECT / name).exists(), name


def anchors(text: str) -> set[str]:
    """Return the names that GitHub gives the headings of a document."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_link_leads_somewhere(document):
    path = PROJECT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name) if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


def test_every_script_has_help_and_starts_nothing_for_it():
    """Its `main` is a command of click's."""
    found = 0
    for file in (*(PROJECT / "benchmarks").glob("*.py"), *(PROJECT / "tools").glob("*.py")):
        text = file.read_text()
        if '\nif __name__ == "__main__":' in text:
            head = text[: text.index("\ndef main(")].rpartition("\n\n")[2]
            assert head.startswith(("@script(__doc__)", "@click.command(")), file
            found += 1
    assert found > 20


def test_make_alone_lists_every_target():
    output = subprocess.run(
        ["make"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\w", output, re.MULTILINE), target


def test_make_lets_python_keep_what_it_compiles():
    show = 'show:\n\t@echo "[$$PYTHONDONTWRITEBYTECODE]"'
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", show, "show"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_an_unsuitable_python_gets_one_line(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.18\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "charlm needs Python 3.11 or newer, but" in done.stderr
    assert "is Python 3.9.18" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_archive_without_git_is_set_up_to_go_without(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    for folder in (".dvc", ".venv"):
        (tmp_path / folder).mkdir()
    installed = tmp_path / ".venv/.installed"
    installed.write_text(f"{tmp_path}\n")
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}

    def setup():
        return subprocess.run(
            ["make", "setup"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert setup().stderr == "no git repository here: DVC works without one (.dvc/config.local)\n"
    assert "no_scm = true" in (tmp_path / ".dvc/config.local").read_text()
    assert setup().stderr == ""
    (tmp_path / ".dvc/config.local").unlink()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert setup().stderr == ""
    assert not (tmp_path / ".dvc/config.local").exists()


def test_the_lock_pins_every_version_for_every_platform():
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    assert "torch==2.13.0" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_the_licences_of_all_pinned_packages_are_listed():
    assert (PROJECT / "docs/licences.md").read_text() == licences.table() + "\n"


def committed(name: str) -> Any:
    """Return a file of reports/ as it is in git's index."""
    shown = subprocess.run(
        ["git", "show", f":reports/{name}"], cwd=PROJECT, capture_output=True, check=True
    )
    return json.loads(shown.stdout)


def figures(leaf: dict[str, float] | None) -> list[float]:
    # An ensemble has no windows.
    return [] if leaf is None else [leaf["bits_per_char"], leaf["nats_per_char"]]


def test_the_result_tables_are_the_committed_leaderboard():
    """Up to what another kind of processor may change: a reader may commit losses of their own."""
    results, readme = ((PROJECT / name).read_text() for name in ("docs/results.md", "README.md"))
    rows = {row["model"]: row for row in committed("leaderboard.json")}

    def near(shown: str, expected: list[float]) -> None:
        found = [float(number) for number in re.findall(r"\d+\.\d{4}\b", shown)]
        assert found == pytest.approx(expected, abs=0.006), shown

    for name, row in rows.items():
        leaves = [row["streaming"][split] for split in ("validation", "test", "holdout")]
        leaves += [(row[way] or {}).get("holdout") for way in ("windowed", "windowed_256")]
        (line,) = re.findall(rf"^\| `{name}` \| {row['parameters']:,} \| .*$", results, re.M)
        near(line, [figure for leaf in leaves for figure in figures(leaf)])
    shown = re.findall(r"^\| `(\w+)` \|(.*\| \S+ \| \S+ \(\S+\)) \|$", readme, re.M)
    assert len(shown) == 8
    for name, line in shown:
        streaming = rows[name]["streaming"]
        near(line, [streaming["validation"]["bits_per_char"], *figures(streaming["test"])])


def test_the_table_of_verdicts_is_the_committed_one():
    content = committed("published.json")
    text = (PROJECT / "docs/published.md").read_text()
    compared = (published.REPRODUCED, published.DIFFERS, published.NOT_RUN)
    for letter, title in content["documents"].items():
        verdicts = [row["verdict"] for row in content["rows"] if row["document"] == letter]
        counts = [verdicts.count(verdict) for verdict in compared]
        counts.append(len(verdicts) - sum(counts))
        cells = " | ".join(map(str, [len(verdicts), *counts]))
        assert f"| {letter}. {title} | {cells} |" in text


def test_readme_fits_two_screens():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


def test_an_environment_of_another_folder_is_made_anew(tmp_path):
    (tmp_path / "Makefile").write_text((PROJECT / "Makefile").read_text())
    stamp = tmp_path / ".venv/.installed"

    def make() -> str:
        done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    for content in ("", f"{tmp_path.resolve()}\n"):
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(content)
        assert "made in" not in make()
        assert stamp.exists()
    stamp.write_text("/elsewhere\n")
    assert ".venv was made in /elsewhere: it is made anew" in make()
    assert not stamp.parent.exists()
