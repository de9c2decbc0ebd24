"""The command `score`: what any text costs the trained models."""

import csv
import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlm.cli import model_option, one_line_errors, progress
from charlm.errors import UserError

if TYPE_CHECKING:
    from charlm.trained_model import Bits, TrainedModel

SHOWN = 60
"""Characters of a line that are shown."""

NAMED = 5
"""Unknown symbols that a message names."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@model_option("One in models/; repeat it for more.", multiple=True)
@click.option("--lines", "by_line", is_flag=True, help="Bits per character of each line too.")
@click.option("--characters", is_flag=True, help="Bits of each character, as CSV.")
@click.option("--skip-unknown", is_flag=True, help="Leave out symbols that a model does not know.")
@one_line_errors
def main(
    file: Path, name: tuple[str, ...], by_line: bool, characters: bool, skip_unknown: bool
) -> None:
    """Print the bits per character of FILE, a UTF-8 text; - is standard input.

    Each character is predicted from those before it, the first as if a line began. A line's end
    belongs to the line.

    \b
    Examples:
      charlm score poem.txt --model lstm
      charlm score poem.txt --model lstm --model gpt --lines
      echo "To be, or not to be" | charlm score - --model lstm --characters
    """
    if by_line and characters:
        raise UserError("--lines and --characters: give one of them")
    text = read(file)

    import charlm
    from charlm.models.base import start_torch

    start_torch()
    names = list(dict.fromkeys(name))
    models = [charlm.load(each) for each in names]
    kept = known(text, models, skip_unknown)
    if not kept:
        raise UserError(f"{file}: nothing to score: {'no symbol is known' if text else 'no text'}")
    scored = {}
    for each, model in zip(names, models, strict=True):
        with progress(len(kept), "char", each) as bar:
            scored[each] = model.bits(kept, bar.update)
    if characters:
        write_characters(kept, scored)
        return
    if by_line:
        show_lines(kept, scored)
    widest = max(map(len, scored))
    for each, bits in scored.items():
        click.echo(
            f"{each:<{widest}}  {bits.per_character:.4f} bits per character, "
            f"{bits.per_byte:.4f} per byte; {bits.total:,.0f} bits for {len(bits):,} characters"
        )


def read(file: Path) -> str:
    """Return a text.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    try:
        # Line ends stay as they are.
        if str(file) == "-" and sys.stdin is None:
            raise UserError("-: there is no standard input")
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 (byte {error.start})") from None


def known(text: str, models: "list[TrainedModel]", skip: bool) -> str:
    """Return the characters of a text that all models know.

    Args:
        text: any.
        models: that are to score it.
        skip: leave out the others.

    Raises:
        UserError: there are others, and they are not to be left out.
    """
    unknown: dict[str, int] = {}
    for model in models:
        unknown |= model.unknown(text)
    if not unknown:
        return text
    listed = ", ".join(f"{symbol!r} ({times:,})" for symbol, times in most(unknown))
    more = f" and {len(unknown) - NAMED:,} others" if len(unknown) > NAMED else ""
    share = f"{sum(unknown.values()):,} of {len(text):,} characters"
    if not skip:
        raise UserError(f"{share} are unknown: {listed}{more}; --skip-unknown scores the rest")
    click.echo(f"left out: {share}: {listed}{more}", err=True)
    return "".join(symbol for symbol in text if symbol not in unknown)


def most(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent, as many as a message names."""
    return sorted(counts.items(), key=lambda item: -item[1])[:NAMED]


def write_characters(text: str, scored: "dict[str, Bits]") -> None:
    """Print a row for each character."""
    buffer = io.StringIO()
    # The module quotes a carriage return only where lines end in one.
    writer = csv.writer(buffer, lineterminator="\r\n")

    def write(*cells: Any) -> None:
        writer.writerow(cells)
        click.echo(buffer.getvalue().removesuffix("\r\n"))
        buffer.seek(0)
        buffer.truncate()

    write("line", "character", *scored)
    columns = [bits.each.tolist() for bits in scored.values()]
    line = 1
    for symbol, *costs in zip(text, *columns, strict=True):
        write(line, symbol, *(f"{cost:.4f}" for cost in costs))
        line += symbol == "\n"


def show_lines(text: str, scored: "dict[str, Bits]") -> None:
    """Print a row for each line: bits per character for each model, then the line."""
    widths = [max(7, len(name)) for name in scored]
    heads = (f"{name:>{width}}" for name, width in zip(scored, widths, strict=True))
    click.echo("  ".join(heads) + "  line")
    first = 0
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        part = slice(first, first + len(line))
        first += len(line)
        costs = (float(bits.each[part].mean()) for bits in scored.values())
        cells = (f"{cost:>{width}.3f}" for cost, width in zip(costs, widths, strict=True))
        shown = line.rstrip("\r\n")
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
        click.echo("  ".join(cells) + f"  {shown}")
    click.echo()


if __name__ == "__main__":
    main()
