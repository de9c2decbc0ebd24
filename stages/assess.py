"""Score a model that was trained on top of counts, and let it write."""

import click

from charlm.cli import model_option, one_line_errors
from stages import evaluate, sample


@click.command()
@model_option("Entry under `residuals` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Run the stages evaluate and sample for a model that learns what counts leave.

    \b
    Example:
      python -m stages.assess --model residual_lstm
    """
    evaluate.main(["--model", name], standalone_mode=False)
    sample.main(["--model", name, "--output", f"results/{name}/sample.txt"], standalone_mode=False)


if __name__ == "__main__":
    main()
