"""`charlm`: every command under one name, completed by a shell."""

import importlib
import subprocess
import sys

import click
from click.testing import CliRunner

from charlm import __main__ as commands
from tests.workspace import PROJECT


def test_every_command_of_the_project_is_there():
    found = {
        package: tuple(
            sorted(
                path.stem
                for path in folder.glob("*.py")
                if path.stem != "__main__"
                and isinstance(
                    getattr(importlib.import_module(f"{package}.{path.stem}"), "main", None),
                    click.Command,
                )
            )
        )
        for package, folder in (("charlm", PROJECT / "src/charlm"), ("stages", PROJECT / "stages"))
    }
    assert found == commands.COMMANDS


def test_help_lists_them_and_a_mistake_is_one_line(monkeypatch):
    monkeypatch.chdir(PROJECT)
    shown = CliRunner().invoke(commands.main, ["--help"])
    assert shown.exit_code == 0
    for names in commands.COMMANDS.values():
        assert all(f"\n  {name} " in shown.output for name in names)
    assert "No such command 'samp'" in CliRunner().invoke(commands.main, ["samp"]).output


def test_outside_of_the_project_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    done = CliRunner().invoke(commands.main, ["sample", "--help"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: no params.yaml in")


def test_a_shell_completes_commands_options_and_models():
    def completed(*words: str) -> list[str]:
        environment = {
            "_CHARLM_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["charlm", *words]),
            "COMP_CWORD": str(len(words)),
            "PYTHONPATH": str(PROJECT / "src"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "charlm"],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.removeprefix("plain,") for line in done.stdout.splitlines()]

    assert completed("sam") == ["sample"]
    assert completed("sample", "--temp") == ["--temperature"]
    assert completed("sample", "--model", "lstm_o") == ["lstm_output_gate", "lstm_output_gate_all"]
