"""The command `compress`: compress a text with a model, and restore it."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlm import results
from charlm.cli import model_option, one_line_errors, progress
from charlm.config import params
from charlm.errors import UserError
from charlm.files import write_bytes

if TYPE_CHECKING:
    from charlm.data.vocabulary import Vocabulary
    from charlm.models.base import LanguageModel

ENCODED, MODELS, RESULTS = Path("data/encoded"), Path("models"), Path("results")

of_model = model_option("A folder of models/.")
input_argument = click.argument("source", type=click.Path(path_type=Path))
output_argument = click.argument("destination", type=click.Path(path_type=Path))


@click.group()
def main() -> None:
    """Compress a text with a model of the zoo, and restore it.

    \b
    Examples:
      charlm compress holdout --model lstm
      charlm compress file --model lstm speech.txt speech.c2
      charlm compress restore --model lstm speech.c2 speech.txt
    """


@main.command()
@of_model
@click.option("--dynamic", is_flag=True, help="Learn on the way, as `dynamic` in params.yaml says.")
@one_line_errors
def holdout(name: str, dynamic: bool) -> None:
    """Compress the holdout, restore it, compare both and the size with the model's loss.

    \b
    Examples:
      charlm compress holdout --model lstm
      charlm compress holdout --model mixture --dynamic
    """
    from charlm.data import encoding
    from charlm.evaluation import arithmetic_coding

    settings = params.load()
    settings.named(name)
    how = settings.learner(name) if dynamic else None
    if dynamic and not settings.dynamic_evaluation:
        raise UserError("--dynamic compares with dynamic evaluation: dynamic_evaluation is false")
    train, *held = (encoding.load_split(ENCODED, split) for split in encoding.SPLITS)
    if not len(train):
        raise UserError("the training split is empty: nothing comes before the holdout")
    metrics = results.load(RESULTS / name / "metrics.json", MODELS / name)
    if "streaming" not in metrics:
        raise UserError(f"{name} was trained on all of the text: it has no holdout")
    leaves = metrics["streaming"]
    lessons = None
    if how is not None:
        leaves = results.load(RESULTS / name / "dynamic.json", MODELS / name)
        lessons = arithmetic_coding.Lessons(train.tolist(), how)
    ids = [int(symbol) for split in held for symbol in split]
    with progress(2 * len(ids), "char", f"{name}: compressing and restoring") as bar:
        model, vocabulary, weights = load(name)
        encoding.check_symbols(name, vocabulary.symbols, ENCODED)
        first = int(train[-1])
        content = arithmetic_coding.compress(
            model, ids, first, vocabulary, weights, bar.update, lessons
        )
        # Dynamic evaluation changes the weights: load the model again.
        model, *_ = load(name)
        restored = arithmetic_coding.restore(
            model, content, vocabulary, weights, bar.update, lessons
        )
    text = vocabulary.decode(ids)
    if restored != text:
        raise UserError("the text did not come back as it was: please report this")
    bits, reported = 8 * len(content), leaves["holdout"]["bits_per_char"]
    expected = reported * len(ids)
    way = f"{name}, learning on the way" if dynamic else name
    click.echo(
        f"{way}: {len(text.encode()):,} bytes to {len(content):,}, header included, and back, "
        f"byte for byte\n"
        f"{bits / len(ids):.4f} bits per character; its loss says {reported:.4f} "
        f"({bits - expected:+,.0f} bits{f', {bits / expected - 1:+.3%}' if expected else ''})\n"
        "the weights and the training text are not counted"
    )


@main.command("file")
@of_model
@input_argument
@output_argument
@one_line_errors
def compress_file(name: str, source: Path, destination: Path) -> None:
    """Compress the UTF-8 text SOURCE into DESTINATION.

    The model needs to know every symbol of it, and the first is predicted as if a line began.

    \b
    Example:
      charlm compress file --model lstm speech.txt speech.c2
    """
    from charlm.data import encoding
    from charlm.evaluation import arithmetic_coding

    params.load().named(name)
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    points = list(encoding.read(source))
    model, vocabulary, weights = load(name)
    try:
        ids = [int(symbol) for chunk in points for symbol in vocabulary.encode_points(chunk)]
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    first = max(0, vocabulary.symbols.find("\n"))
    with progress(len(ids), "char", f"{name}: compressing") as bar:
        content = arithmetic_coding.compress(model, ids, first, vocabulary, weights, bar.update)
    write_bytes(destination, content)
    bits = 8 * len(content) / max(len(ids), 1)
    click.echo(
        f"{source}: {source.stat().st_size:,} bytes to {len(content):,} "
        f"({bits:.4f} bits per character, {bits * math.log(2):.4f} nats)",
        err=True,
    )


@main.command()
@of_model
@input_argument
@output_argument
@one_line_errors
def restore(name: str, source: Path, destination: Path) -> None:
    """Restore the text that was compressed into SOURCE as DESTINATION.

    \b
    Example:
      charlm compress restore --model lstm speech.c2 speech.txt
    """
    from charlm.evaluation import arithmetic_coding

    params.load().named(name)
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    content = source.read_bytes()
    model, vocabulary, weights = load(name)
    try:
        with progress(arithmetic_coding.length(content), "char", f"{name}: restoring") as bar:
            text = arithmetic_coding.restore(model, content, vocabulary, weights, bar.update)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    write_bytes(destination, text.encode("utf-8"))


def load(name: str) -> "tuple[LanguageModel, Vocabulary, str]":
    """Return a trained model on the CPU, its vocabulary and the digest of its weights."""
    import torch

    from charlm import saved_model
    from charlm.files import sha256
    from charlm.models.base import start_torch

    start_torch()
    model, config = saved_model.load(MODELS / name, torch.device("cpu"))
    return model, config.vocabulary, sha256(MODELS / name / saved_model.WEIGHTS)


if __name__ == "__main__":
    main()
