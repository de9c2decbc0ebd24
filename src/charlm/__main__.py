"""All commands under one name, which a shell can complete: `charlm`, or `python -m charlm`."""

import importlib
import sys

import click

from charlm.errors import UserError
from charlm.files import project_root

COMMANDS = {
    "charlm": (
        "check",
        "compare",
        "compress",
        "ladder",
        "register",
        "search",
        "summary",
        "track",
    ),
    "stages": (
        "adapt",
        "count",
        "download",
        "encode",
        "entropy",
        "evaluate",
        "mix",
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
    """Commands that are imported when they are asked for: some take seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted(name for names in COMMANDS.values() for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        for package, names in COMMANDS.items():
            if cmd_name in names:
                try:
                    # The stages are the project's, not the installed package's.
                    sys.path.insert(0, str(project_root()))
                except UserError as error:
                    raise click.ClickException(str(error)) from None
                main = importlib.import_module(f"{package}.{cmd_name}").main
                assert isinstance(main, click.Command)
                return main
        return None


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
