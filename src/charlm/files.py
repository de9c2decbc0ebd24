"""Files that are either whole or absent, and the folder that paths are relative to."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from charlm.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = 4096
"""Bytes of an array that is read at once."""


def project_root() -> Path:
    """Return the project's root: the folder with params.yaml and dvc.yaml.

    A queued experiment runs in a temporary copy inside .dvc/tmp. DVC_ROOT then names the repository
    itself, in which the project's folder is where a relative path of the user's (a corpus, a
    database) means something. The repository's .dvc may lie above the project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            break
    else:
        raise UserError(f"no params.yaml in {here} or above: run this inside the project")
    repository = Path(os.environ.get("DVC_ROOT", folder)).resolve()
    own = next((up for up in (folder, *folder.parents) if (up / ".dvc").is_dir()), folder)
    if not own.resolve().is_relative_to(repository / ".dvc" / "tmp"):
        return folder
    return repository / folder.relative_to(own)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written atomically: a reader sees the old content, the new one or no file.

    It is moved in place when the block ends well; otherwise what was there is left as it was.

    Raises:
        UserError: there is no space or no permission.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    finally:
        # What kept it from being written may keep it from being removed, and was said already.
        with contextlib.suppress(OSError):
            part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file's whole content atomically; errors as in `writing`."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically, line endings as they are."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with a final newline so that a diff reads well."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(path: Path, array: "NDArray[Any]") -> None:
    """Write an array atomically, as .npy."""
    import numpy as np  # only some commands have arrays

    with writing(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> "NDArray[Any]":
    """Return an array of the pipeline's own; its pages are read when they are used.

    Raises:
        UserError: the file is missing or damaged.
    """
    import numpy as np

    try:
        # An array without rows cannot be mapped into memory, and a small one need not be.
        mode: Literal["r"] | None = "r" if path.stat().st_size > SMALL else None
        array: NDArray[Any] = np.load(path, mmap_mode=mode)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro` to make it") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`") from None
    return array


def sha256(path: Path) -> str:
    """Return the digest of a file's content, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file of the pipeline's own.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro` to make it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`") from None
