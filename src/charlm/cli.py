"""What all commands share: one-line errors, and progress that is quiet in a log."""

import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click
from tqdm import tqdm

from charlm.errors import UserError

NO_MEMORY = "can't allocate memory|Storage size calculation|CUDA out of memory|index-sized integer"
"""What torch and Python say, by errors that mean other things too."""

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show errors that a user or the disk caused in one line."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            raise click.ClickException(str(error)) from None
        except (MemoryError, OverflowError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, str(error)):
                raise
            wanted = re.search(r"allocate (\d+) bytes", str(error))
            size = f" for {int(wanted[1]):,} bytes at once" if wanted else ""
            raise click.ClickException(f"no memory{size}: choose smaller sizes") from None
        except BrokenPipeError:
            raise  # the reader of a pipe has seen enough: click ends quietly
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror or error}{where}") from None

    return wrapped


def script(text: str | None) -> Callable[[Callable[..., None]], click.Command]:
    """Return the decorator of a script's `main`: `--help` shows the script's docstring as it is."""
    as_it_is = "\n\n".join(f"\b\n{paragraph}" for paragraph in (text or "").split("\n\n"))

    def decorate(main: Callable[..., None]) -> click.Command:
        return click.command(help=as_it_is)(one_line_errors(main))

    return decorate


def model_option(
    explanation: str, multiple: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the option --model of a command, which a shell completes from params.yaml."""
    return click.option(
        "--model",
        "name",
        required=True,
        multiple=multiple,
        help=explanation,
        shell_complete=_matching_models,
    )


def _matching_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from charlm.config import params

    try:
        return sorted(name for name in params.load().names if name.startswith(incomplete))
    except UserError:
        return []  # the command itself will say what is wrong


def progress(total: int, unit: str, title: str, shown: bool = True) -> "tqdm[Any]":
    """Return a progress bar on standard error, shown on a terminal only."""
    return tqdm(
        total=total,
        unit=unit,
        desc=title,
        unit_scale=True,
        disable=None if shown else True,
        leave=False,
        delay=0.5,
    )
