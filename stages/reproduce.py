"""Train, score and sample one document's model as the document did."""

import click

from charlm.cli import model_option, one_line_errors
from stages import evaluate, sample, train


@click.command()
@model_option("Entry under `reproductions` in params.yaml.")
@one_line_errors
def main(name: str) -> None:
    """Run the stages train, evaluate and sample for a model that is trained on all of the text.

    \b
    Example:
      python -m stages.reproduce --model mlp_all
    """
    for stage in (train, evaluate):
        stage.main(["--model", name], standalone_mode=False)
    sample.main(["--model", name, "--output", f"results/{name}/sample.txt"], standalone_mode=False)


if __name__ == "__main__":
    main()
