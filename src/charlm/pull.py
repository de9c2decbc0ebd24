"""The command `pull`: models and results without training, from a DVC remote."""

import logging
from pathlib import Path
from typing import Any

import click
import requests

from charlm.cli import one_line_errors
from charlm.errors import UserError, masked
from charlm.report import summary

ANSWER_S = 10.0
"""Seconds that a server may take to answer at all."""


@click.command()
@click.argument("remote", required=False, envvar="REMOTE")
@one_line_errors
def main(remote: str | None) -> None:
    """Fetch the models and results of this commit from REMOTE, so that nothing need be trained.

    REMOTE is a folder or an address that DVC knows: https://…, s3://…, ssh://…. Without it the
    environment's REMOTE is taken, then the default remote of DVC's configuration.

    \b
    Example:
      charlm pull https://example.org/charlm
    """
    from dvc.config import ConfigError
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.repo import Repo

    # DVC would list the digest of every missing file; the reason, an error, is still said.
    logging.disable(logging.WARNING)
    address = remote or "the default remote"
    try:
        with Repo(config=named(remote) if remote else {}) as repo:
            address = default_address(repo.config)
            repo.pull()
    except ConfigError as error:
        raise UserError(" ".join(str(error).split())) from None
    except CheckoutError:
        raise UserError(incomplete(address)) from None
    except (DvcException, OSError) as error:
        if "--force" in str(error):
            raise UserError(
                "a model or a result here was changed, and is in no cache: move it away, or "
                "`dvc checkout --force` gives it up"
            ) from None
        if "failed to download" in str(error):
            raise UserError(incomplete(address)) from None
        raise UserError(f"{address}: {' '.join(str(error.__cause__ or error).split())}") from None
    click.echo(f"everything is here, from {masked(address)}; `dvc status` compares it", err=True)
    if summary.LEADERBOARD.is_file():
        summary.show()


def named(remote: str) -> dict[str, Any]:
    """Return DVC's configuration with a remote that the user named.

    Raises:
        UserError: it is not there.
    """
    if "://" not in remote:
        # Relative to where the command is given, not to DVC's configuration.
        remote = str(Path(remote).expanduser().resolve())
        if not Path(remote).is_dir():
            raise UserError(f"{remote}: there is no such folder")
    elif remote.startswith(("http://", "https://")):
        try:
            # A host of files may well have no page at this address, but it answers.
            requests.head(remote, timeout=ANSWER_S)
        except requests.RequestException:
            raise UserError(f"{remote} does not answer") from None
    return {"core": {"remote": "named"}, "remote": {"named": {"url": remote}}}


def default_address(config: dict[str, Any]) -> str:
    """Return the address of the default remote.

    Args:
        config: DVC's.

    Raises:
        UserError: there is none.
    """
    name = config["core"].get("remote")
    if name is None:
        raise UserError(
            "no remote is named: `make pull REMOTE=https://…` (or a folder, s3://…); "
            "`make repro` trains everything here"
        )
    return str(config["remote"].get(name, {}).get("url", name))


def incomplete(address: str) -> str:
    """Return the message for a remote that has not all files."""
    return (
        f"{address} did not give all files that dvc.lock names: check out the commit that was "
        "published, or let `make repro` make the rest"
    )


if __name__ == "__main__":
    main()
