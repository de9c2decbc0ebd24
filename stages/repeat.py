"""Train and score an entry once more, with another seed."""

import click

from charlm.cli import model_option, one_line_errors
from stages import evaluate, train


@click.command()
@model_option("Entry under `repeats` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Run the stages train and evaluate for a repeat, whose seed params.yaml gives.

    The leaderboard then has mean and standard deviation over all seeds of the entry.

    \b
    Example:
      python -m stages.repeat --model bigram_2
    """
    for stage in (train, evaluate):
        stage.main(["--model", name], standalone_mode=False)


if __name__ == "__main__":
    main()
