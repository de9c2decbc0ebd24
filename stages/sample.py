"""Draw text from one model: a stage of the pipeline and a command for people."""

from pathlib import Path
from typing import Any

import click

from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import write_text

ENCODED, MODELS = Path("data/encoded"), Path("models")
MOST_READ = 4_000_000
"""Characters of the training text in which the words of a prompt are looked for."""


@click.command()
@model_option("A run or an ensemble of params.yaml.")
@click.option("--prompt", help="Text to continue.")
@click.option("--length", type=int, help="Characters to draw.")
@click.option("--temperature", type=float, help="0 is greedy; below 1 safer, above 1 wilder.")
@click.option("--top-k", type=int, help="Draw among the k likeliest symbols only.")
@click.option(
    "--top-p", type=float, help="Draw among the likeliest symbols of total probability p."
)
@click.option(
    "--context",
    help="Characters to read again for each one drawn, or block; without it the state is carried.",
)
@click.option("--samples", type=int, help="How many texts to draw side by side.")
@click.option("--seed", type=int, help="Same seed, same text.")
@click.option("--stream", is_flag=True, help="Print each character as it is drawn.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write instead of printing."
)
@one_line_errors
def main(name: str, output: Path | None, stream: bool, **options: Any) -> None:
    """Print text drawn from a trained model; options that are not given come from params.yaml.

    An entry's own `sampling` there comes before the common one. A prompt of params.yaml with a word
    that the corpus lacks is replaced by the corpus's commonest line; one that it cannot spell, and
    null, by its first symbol.

    \b
    Examples:
      charlm sample --model lstm --prompt "ROMEO:" --stream
      charlm sample --model gpt --temperature 0.5 --top-k 5 --samples 3
    """
    if options["context"] is not None and options["context"].isdecimal():
        options["context"] = int(options["context"])
    sampling = params.override(params.load().named(name).sampling, options)
    if stream and output:
        raise UserError("--stream prints and --output writes: give one of them")
    if stream and options["samples"] not in (None, 1):
        raise UserError("--stream prints one text: leave out --samples")
    if stream:
        sampling = sampling.model_copy(update={"samples": 1})

    from charlm import saved_model
    from charlm.models.base import start_torch
    from charlm.sampling import Writer, suited

    writer = Writer(*saved_model.load(MODELS / name, start_torch()))
    if options["prompt"] is None:
        if text := training_text():
            sampling = sampling.model_copy(update={"prompt": suited(sampling.prompt, text)})
        sampling, warning = writer.spelt(sampling)
        if warning:
            click.echo(f"{name}: {warning}", err=True)
    try:
        if stream:
            for character in writer.characters(sampling):
                click.echo(character, nl=False)
            click.echo()
            return
        texts = writer.texts(sampling)
    except UserError as error:
        raise UserError(f"--prompt: {error}") from None
    heads = [f"=== sample {number} of {len(texts)} ===\n" for number in range(1, len(texts) + 1)]
    together = "\n\n".join(head + text for head, text in zip(heads, texts, strict=True))
    if output:
        write_text(output, together + "\n")
    else:
        click.echo(together if len(texts) > 1 else texts[0])


def training_text() -> str:
    """Return the text that models were trained on; empty where only models were pulled.

    Of a large one the beginning is enough to know its words.
    """
    if not (ENCODED / "train.npy").is_file():
        return ""
    ids = encoding.load_split(ENCODED, "train")[:MOST_READ]
    return Vocabulary.load(ENCODED / "vocabulary.json").decode(ids)


if __name__ == "__main__":
    main()
