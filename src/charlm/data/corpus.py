"""The corpus: taken from the first source that answers, verified, written atomically."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from charlm.errors import UserError
from charlm.files import writing

NO_PATH = "data/none"
"""The value of corpus.path that stands for no file, so that the sources are tried.

DVC wants a dependency to be an existing file, so an empty file stands for nothing.
"""

TIMEOUT_S = 20.0
SLOWEST = 1000
"""Bytes a second, on average, below which an address is given up after `TIMEOUT_S`."""

MOST_BYTES = 1 << 36
"""Of an answer whose size nobody said: an endless one would fill the disk."""

CHUNK_BYTES = 1 << 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _SourceError(Exception):
    """Why one source did not give the corpus."""


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
            if "://" in source:
                chunks = _read_address(source, any_content=expected_sha256 is None)
            else:
                chunks = _read_file(root / source)
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
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise _SourceError(f"not an address ({error})") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise _SourceError("only https addresses are fetched")


def _read_address(address: str, any_content: bool) -> Iterator[bytes]:
    """Yield what an address answers.

    Args:
        address: it, and all that it redirects to, must be of a kind that is fetched.
        any_content: whether no checksum will tell a page about the text from the text.
    """
    import requests  # takes as long to import as the rest of the stage
    import urllib3

    class SecureRedirects(requests.Session):
        """Follows redirects to addresses that would have been accepted in the first place."""

        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target is not None:
                _check_address(urljoin(resp.url, target))
            return target

    _check_address(address)
    started, size = time.monotonic(), 0
    try:
        with (
            SecureRedirects() as session,
            session.get(address, stream=True, timeout=TIMEOUT_S) as answer,
        ):
            if not answer.ok:
                raise _SourceError(f"HTTP {answer.status_code} {answer.reason}")
            kind = answer.headers.get("Content-Type", "")
            if any_content and kind.startswith("text/html"):
                raise _SourceError("a web page, not a text: give the address of the file itself")
            # What has come is taken at once, so that a slow answer is seen to be slow.
            while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):
                size += len(chunk)
                took = time.monotonic() - started
                if took > TIMEOUT_S and size < SLOWEST * took:
                    raise _SourceError(f"too slow: {size:,} bytes in {took:.0f} s")
                if size > MOST_BYTES:
                    raise _SourceError(f"no end after {MOST_BYTES:,} bytes")
                yield chunk
    except requests.TooManyRedirects:
        raise _SourceError("redirects without an end") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _SourceError(_reason(error, size)) from None


def _reason(error: Exception, size: int) -> str:
    """Return in a few words why an address gave nothing, or only so many bytes."""
    text = " ".join(str(error).split())
    if missing := re.search(r"IncompleteRead\((\d+) bytes read, (\d+) more expected\)", text):
        whole = int(missing[1]) + int(missing[2])
        return f"ended after {int(missing[1]):,} of {whole:,} bytes"
    if size:
        return f"broke off after {size:,} bytes ({type(error).__name__})"
    # The innermost reason; what is around it is of the library.
    inner = re.findall(r"\[Errno [^\]]*\] [^')]+|[A-Z]\w+\('[^']*'", text)
    return f"no answer ({inner[-1] if inner else text})"[:200]


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


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
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
