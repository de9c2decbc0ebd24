"""All commands under one name, which a shell can complete: `charlm`, or `python -m charlm`."""

import ast
import importlib.util
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from charlm.errors import UserError
from charlm.files import project_root

COMMANDS = {
    "charlm": (
        "check",
        "compare",
        "compress",
        "ladder",
        "play",
        "register",
        "search",
        "server",
        "summary",
        "track",
    ),
    "stages": (
        "adapt",
        "assess",
        "count",
        "download",
        "encode",
        "entropy",
        "evaluate",
        "mix",
        "refine",
        "repeat",
        "report",
        "reproduce",
        "sample",
        "sources",
        "train",
    ),
}
"""By package; a test compares them with the files."""


class Commands(click.Group):
    """Commands of which only the one that is asked for is imported: some take seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted(name for names in COMMANDS.values() for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if not (module := self._module(cmd_name)):
            return None
        main = importlib.import_module(module).main
        assert isinstance(main, click.Command)
        return main

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command, from the text of its file."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(name)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        names = self.list_commands(ctx)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    def _module(self, name: str) -> str | None:
        package = next((package for package, names in COMMANDS.items() if name in names), None)
        if package is None:
            return None
        try:
            # The stages are the project's, not the installed package's.
            sys.path.insert(0, str(project_root()))
        except UserError as error:
            raise click.ClickException(str(error)) from None
        return f"{package}.{name}"

    def _summary(self, name: str) -> str:
        spec = importlib.util.find_spec(str(self._module(name)))
        assert spec is not None
        assert spec.origin is not None
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        raise AssertionError(f"{spec.origin} has no main")


@click.group(cls=Commands)
def main() -> None:
    """Stages of the pipeline and what goes with them, in the project's folder.

    `charlm COMMAND` is `python -m stages.COMMAND` or `python -m charlm.COMMAND`.

    \b
    Examples:
      charlm sample --model lstm --prompt "ROMEO:" --stream
      eval "$(_CHARLM_COMPLETE=bash_source charlm)"    # or zsh_source, fish_source: Tab completes
    """


if __name__ == "__main__":
    main(prog_name="charlm")
