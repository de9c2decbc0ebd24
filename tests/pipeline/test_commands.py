"""`charlm`: every command under one name, completed by a shell."""

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from charlm import __main__ as commands
from tests.workspace import PROJECT

MODULES = {
    name: module for group in commands.COMMANDS.values() for name, (module, _) in group.items()
}


def commands_of(package: str, folder: str) -> set[str]:
    """Return the modules in a folder that hold a command."""
    root = PROJECT / folder
    modules = [
        ".".join([package, *path.relative_to(root).with_suffix("").parts])
        for path in root.rglob("*.py")
        if path.stem not in ("__main__", "__init__") and "def main" in path.read_text()
    ]
    found = {module: getattr(importlib.import_module(module), "main", None) for module in modules}
    return {module for module, main in found.items() if isinstance(main, click.Command)}


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["ladder"]])
@pytest.mark.parametrize("output", [">&-", ">/dev/full", "| head -c 1"])
def test_an_output_that_takes_nothing_is_one_line_at_most(arguments, output):
    command = f"{sys.executable} -m charlm {' '.join(arguments)} {output}"
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr.count("\n") <= 1
    assert "Traceback" not in done.stderr


def test_every_command_of_the_project_is_there():
    found = commands_of("charlm", "src/charlm") | commands_of("stages", "stages")
    # What `charlm ideas` lets DVC run is no command for people.
    assert found - {"stages.idea"} == set(MODULES.values())


def test_help_groups_the_commands_and_names_three_for_a_newcomer():
    shown = CliRunner().invoke(commands.main, ["--help"])
    assert shown.exit_code == 0
    for title, group in commands.COMMANDS.items():
        assert f"\n{title}:\n" in shown.output
        for name, (_, line) in group.items():
            assert f"\n  {name} " in shown.output
            assert line in shown.output
    for name in ("sample", "play", "compare"):
        assert f"`charlm\n  {name}`" in shown.output or f"`charlm {name}`" in shown.output


@pytest.mark.parametrize("name", MODULES)
def test_each_command_has_an_example_under_that_name(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    shown = CliRunner().invoke(commands.main, [name, "--help"])
    assert shown.exit_code == 0
    assert f"charlm {name}" in shown.output or f"make {name}" in shown.output


def test_a_mistake_is_one_line():
    assert "No such command 'samp'" in CliRunner().invoke(commands.main, ["samp"]).output


def test_help_imports_no_command():
    code = "import sys; from charlm.__main__ import main; main(['--help'], standalone_mode=False)\n"
    code += "sys.exit(bool({'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


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
