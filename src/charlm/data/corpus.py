"""The corpus: taken from the first source that answers, verified, written atomically."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from charlm.errors import UserError
from charlm.files import writing

NO_PATH = "data/none"
"""The value of corpus.path that stands for no file, so that the sources are tried.

DVC wants a dependency to be an existing file, so an empty file stands for nothing.
"""

TIMEOUT_S = 20.0
CHUNK_BYTES = 1 << 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _SourceError(Exception):
    """Why one source did not give the corpus."""


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to addresses that would have been accepted in the first place."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, url: str
    ) -> Any:
        _check_address(url)
        return super().redirect_request(req, fp, code, msg, headers, url)


def fetch(
    destination: Path,
    path: str,
    sources: list[str],
    expected_bytes: int | None,
    expected_sha256: str | None,
    root: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[str, str]:
    """Bring the corpus to `destination`.

    Args:
        destination: file to write; on failure it is left as it was.
        path: a text file of the user's own, used as it is; `NO_PATH` for the sources.
        sources: addresses (https, or http on this machine) and files relative to `root`, in the
            order to try them.
        expected_bytes: size of what a source gives, or None to accept any.
        expected_sha256: checksum in hexadecimal, or None to accept any.
        root: the project's root.
        advance: called with the number of bytes just received.

    Returns:
        where the corpus came from, and its SHA-256.

    Raises:
        UserError: the file, or every source, failed; the message gives each one's reason.
    """
    if path != NO_PATH:
        try:
            return path, _receive(_read_file(Path(path)), destination, None, None, advance)
        except _SourceError as error:
            raise UserError(f"corpus.path in params.yaml: {path}: {error}") from None
    reasons = []
    for source in sources:
        try:
            chunks = _read_address(source) if "://" in source else _read_file(root / source)
            return source, _receive(chunks, destination, expected_bytes, expected_sha256, advance)
        except _SourceError as error:
            reasons.append(f"  {source}: {error}")
    raise UserError(
        "no source of the corpus answered:\n"
        + "\n".join(reasons)
        + "\nTo supply the text yourself, set corpus.path in params.yaml to a UTF-8 file, or add "
        "its address to corpus.sources."
    )


def _check_address(address: str) -> None:
    """Refuse what could be changed on its way."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise _SourceError("only https addresses are fetched")


def _read_address(address: str) -> Iterator[bytes]:
    _check_address(address)
    opener = urllib.request.build_opener(_SecureRedirects)
    try:
        with opener.open(address, timeout=TIMEOUT_S) as answer:
            yield from _chunks(answer)
    except urllib.error.HTTPError as error:
        raise _SourceError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise _SourceError(f"no answer ({reason})") from None


def _read_file(path: Path) -> Iterator[bytes]:
    try:
        # A FIFO or a device would be waited on for ever.
        if not path.exists():
            raise _SourceError("no such file")
        if not path.is_file():
            raise _SourceError("not a regular file")
        with path.open("rb") as file:
            yield from _chunks(file)
    except OSError as error:
        raise _SourceError(f"cannot be read ({error.strerror})") from None


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _receive(
    chunks: Iterator[bytes],
    destination: Path,
    expected_bytes: int | None,
    expected_sha256: str | None,
    advance: Callable[[int], None],
) -> str:
    """Write chunks beside the destination and move them there once they are verified."""
    digest, size = hashlib.sha256(), 0
    with writing(destination) as file:
        for chunk in chunks:
            size += len(chunk)
            if expected_bytes is not None and size > expected_bytes:
                raise _SourceError(f"more than the {expected_bytes:,} bytes of corpus.bytes")
            digest.update(chunk)
            file.write(chunk)
            advance(len(chunk))
        if expected_bytes is not None and size != expected_bytes:
            raise _SourceError(f"{size:,} bytes, but corpus.bytes is {expected_bytes:,}")
        if expected_sha256 is not None and digest.hexdigest() != expected_sha256:
            raise _SourceError(
                f"SHA-256 is {digest.hexdigest()}, but corpus.sha256 is {expected_sha256} "
                "(null accepts any)"
            )
    return digest.hexdigest()
