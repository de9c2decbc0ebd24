"""Train one model on top of counts."""

import click

from charlm.cli import model_option, one_line_errors
from stages import train


@click.command()
@model_option("Entry under `residuals` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Run the stage train for a model that learns what counts leave.

    A stage of its own, because it needs the code that counts: an edit of that trains no other model
    again.

    \b
    Example:
      python -m stages.refine --model residual_lstm
    """
    train.main(["--model", name], standalone_mode=False)


if __name__ == "__main__":
    main()
