"""All commands under one name, which a shell can complete: `charlm`, or `python -m charlm`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from charlm.errors import UserError
from charlm.files import project_root

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Stages, in the order of the pipeline": {
        "download": ("stages.download", "Fetch the corpus and verify it."),
        "encode": ("stages.encode", "Turn characters into ids, and split them."),
        "entropy": ("stages.entropy", "Measure entropies, n-gram losses and compressors."),
        "train": ("stages.train", "Train a run."),
        "evaluate": ("stages.evaluate", "Score a model on every character of the holdout."),
        "sample": ("stages.sample", "Draw text from a model."),
        "ensemble": ("stages.ensemble", "Put two trained models together."),
        "dynamic": ("stages.dynamic", "Score a model that goes on learning."),
        "report": ("stages.report", "Write the leaderboard and report.html."),
    },
    "Run": {
        "repro": ("charlm.repro.command", "Run the pipeline, several stages at a time."),
        "check": ("charlm.check", "Check params.yaml."),
        "ideas": ("charlm.ideas.command", "Measure what each idea gains."),
        "search": ("charlm.search", "Search hyperparameters with DVC's queue."),
    },
    "Look": {
        "summary": ("charlm.report.summary", "Print the leaderboard."),
        "ui": ("charlm.serving.ui", "Open MLflow's pages."),
        "play": ("charlm.playground.command", "Write a page that runs the models in a browser."),
        "score": ("charlm.score", "Score any text: bits per character, by line, by character."),
        "experiments": ("charlm.experiments", "Show experiments: losses and what was changed."),
        "compare": ("charlm.report.compare", "Put two revisions side by side."),
        "ladder": ("charlm.ladder", "Show how averaging becomes self-attention."),
    },
    "Share": {
        "pull": ("charlm.pull", "Fetch models and results from a DVC remote."),
        "track": ("charlm.tracking.track", "Give MLflow a run of each model that has none."),
        "register": ("charlm.serving.registry", "Add the models to MLflow's registry."),
        "serve": ("charlm.serving.serve", "Serve a model over HTTP."),
        "server": ("charlm.serving.server", "Start MLflow for a team."),
        "compress": ("charlm.evaluation.compress", "Compress a text with a model, and restore it."),
    },
}
"""By group: the name of each command, its module and one line about it.

The line stands here because importing all commands takes seconds.
"""


class Commands(click.Group):
    """Commands of which only the one that is asked for is imported."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command; what the system refuses is one line, also where only help is printed."""
        # Stages call `python`, and some commands `dvc`: those beside this one, activated or not.
        beside = str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join(filter(None, [beside, os.environ.get("PATH")]))
        try:
            return super().main(*args, **options)
        except OSError as error:
            click.echo(f"Error: {error.strerror or error}", err=True)
            sys.exit(1)
        finally:
            _let_go_of_output()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name, group by group."""
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        for group in COMMANDS.values():
            if cmd_name in group:
                try:
                    # The stages are the project's, not the installed package's.
                    sys.path.insert(0, str(project_root()))
                except UserError as error:
                    raise click.ClickException(str(error)) from None
                command: click.Command = importlib.import_module(group[cmd_name][0]).main
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command, under the title of its group."""
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in group.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        names = self.list_commands(ctx)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _let_go_of_output() -> None:
    """Drop what an output does not take: at its end Python would try again, and say so."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Commands)
def main() -> None:
    """Commands of the pipeline, to be used in the project's folder.

    New here? After `make repro`, try `charlm sample`, `charlm play` and `charlm compare`.

    \b
    Examples:
      charlm sample --model lstm --prompt "ROMEO:" --stream
      charlm train --help
      eval "$(_CHARLM_COMPLETE=bash_source charlm)"    # or zsh_source, fish_source: Tab completes
    """


if __name__ == "__main__":
    main(prog_name="charlm")
