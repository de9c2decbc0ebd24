"""Draw text from one model: a stage of the pipeline and a command for people."""

from pathlib import Path
from typing import Any

import click

from charlm.cli import model_option, one_line_errors
from charlm.config import params
from charlm.errors import UserError
from charlm.files import write_text

MODELS = Path("models")


@click.command()
@model_option("A folder of models/.")
@click.option("--prompt", help="Text to go on from.")
@click.option("--length", type=int, help="Characters to draw.")
@click.option("--temperature", type=float, help="0 is greedy; below 1 safer, above 1 wilder.")
@click.option("--top-k", type=int, help="Draw among the k likeliest symbols only.")
@click.option(
    "--top-p", type=float, help="Draw among the likeliest symbols of total probability p."
)
@click.option(
    "--context",
    help="Characters to read again for each one drawn, or block; carried otherwise.",
)
@click.option("--samples", type=int, help="How many texts to draw side by side.")
@click.option("--seed", type=int, help="Same seed, same text.")
@click.option("--stream", is_flag=True, help="Print each character as it is drawn.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write instead of printing."
)
@one_line_errors
def main(name: str, output: Path | None, stream: bool, seed: int | None, **given: Any) -> None:
    """Print text drawn from a trained model; what is not given comes from params.yaml.

    There an entry of `models` has its own settings, those of its document, before the common ones.
    A prompt of params.yaml that the corpus cannot spell gives way to its first symbol.

    \b
    Examples:
      python -m stages.sample --model lstm --prompt "ROMEO:" --stream
      python -m stages.sample --model gpt --temperature 0.5 --top-k 5 --samples 3
    """
    settings = params.load()
    if given["context"] is not None and given["context"].isdecimal():
        given["context"] = int(given["context"])
    chosen = params.override(settings.entry(name).sampling, given)
    seed = settings.seeds.sampling if seed is None else seed
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed: must be from 0 to 2^63 - 1, not {seed}")
    if stream and (chosen.samples > 1 and given["samples"] is not None):
        raise UserError("--stream prints one text: leave out --samples")
    if stream and output:
        raise UserError("--stream prints and --output writes: give one of them")
    if stream:
        chosen = chosen.model_copy(update={"samples": 1})

    import torch

    from charlm import sampling, saved_model
    from charlm.models.base import start_torch

    device = start_torch()
    model, config = saved_model.load(MODELS / name, device)
    vocabulary = config.vocabulary
    prompt = chosen.prompt or vocabulary.symbols[0]
    try:
        ids = vocabulary.encode(prompt)
    except UserError as error:
        if given["prompt"] is not None:
            raise UserError(f"--prompt: {error}") from None
        prompt = vocabulary.symbols[0]
        ids = vocabulary.encode(prompt)
        click.echo(
            f"{name}: params.yaml's prompt cannot be used ({error}): "
            f"beginning at the first symbol, {prompt!r}",
            err=True,
        )
    prompt_T = torch.tensor(ids).long().to(device)
    drawn = sampling.draw_as(chosen, model, config.block, prompt_T, seed)
    if stream:
        click.echo(prompt, nl=False)
        for ids_B in drawn:
            click.echo(vocabulary.decode(ids_B.tolist()), nl=False)
        click.echo()
        return
    columns = torch.stack(list(drawn), dim=1)
    texts = [prompt + vocabulary.decode(row) for row in columns.tolist()]
    text = "\n\n".join(
        f"=== sample {number} of {len(texts)} ===\n{body}"
        for number, body in enumerate(texts, start=1)
    )
    if output:
        write_text(output, text + "\n")
    else:
        click.echo(text if len(texts) > 1 else texts[0])


if __name__ == "__main__":
    main()
