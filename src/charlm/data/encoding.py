"""Text becomes ids, cut into train, validation and test in the order of the text.

The file is read twice, a chunk at a time: once to know its symbols and its length, once to write
ids. Memory does not grow with the text.
"""

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.config.params import Run, Split
from charlm.data.vocabulary import Vocabulary, code_points
from charlm.errors import UserError
from charlm.files import read_json, sha256, write_json, writing

SPLITS = ("train", "validation", "test")
DIGESTS = "digests.json"
"""Names the SHA-256 of each split's file, so that a flipped bit is found."""
CHUNK_BYTES = 1 << 22
Ids = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Scan:
    """What one look at a text finds.

    Attributes:
        vocabulary: all its symbols.
        characters: its length.
    """

    vocabulary: Vocabulary
    characters: int


def read(
    path: Path, advance: Callable[[int], object] = lambda count: None
) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield the code points of a UTF-8 text, every character as it is, line endings too.

    Args:
        path: the file.
        advance: called with the number of bytes just read.

    Raises:
        UserError: the file is missing or not UTF-8; the message has the byte and its offset.
    """
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while content := file.read(CHUNK_BYTES):
                pending = decoder.getstate()[0]
                if content.isascii() and not pending:
                    yield np.frombuffer(content, dtype=np.uint8)
                elif text := decoder.decode(content):
                    yield code_points(text)
                before += len(content)
                advance(len(content))
            pending = decoder.getstate()[0]
            decoder.decode(b"", final=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        offset = before - len(pending) + error.start
        raise UserError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset} "
            f"({error.reason})"
        ) from None


def scan(path: Path, advance: Callable[[int], object] = lambda count: None) -> Scan:
    """Read a text once; arguments as in `read`.

    Raises:
        UserError: the file is missing, empty, not UTF-8, or has too many different symbols.
    """
    seen, characters = np.zeros(0x110000, dtype=bool), 0
    for points in read(path, advance):
        seen[points] = True
        characters += len(points)
    if not characters:
        raise UserError(f"{path} is empty: a corpus needs characters")
    return Scan(Vocabulary("".join(map(chr, np.flatnonzero(seen)))), characters)


def lengths(characters: int, split: Split) -> dict[str, int]:
    """Return the length of each split of a text, cut where the shares end, rounded down."""
    first = int(characters * split.train)
    second = int(characters * (split.train + split.validation))
    return dict(zip(SPLITS, (first, second - first, characters - second), strict=True))


def encode(
    path: Path,
    vocabulary: Vocabulary,
    lengths: dict[str, int],
    folder: Path,
    advance: Callable[[int], object] = lambda count: None,
) -> str:
    """Write vocabulary.json, SPLIT.npy for each split and their digests, each atomically.

    Args:
        path: the text.
        vocabulary: of all of it.
        lengths: characters of each split, together the whole text.
        folder: where to write.
        advance: as in `read`.

    Returns:
        the symbols that the holdout needs and the training split lacks, sorted.

    Raises:
        UserError: the text is not the one that was scanned, or a file cannot be written.
    """
    seen = np.zeros(len(vocabulary), dtype=bool)
    chunks = (vocabulary.encode_points(points) for points in read(path, advance))
    rest: Ids = np.empty(0, dtype=vocabulary.dtype)
    changed = f"{path} changed while it was read: run this again"
    for split in SPLITS:
        with writing(folder / f"{split}.npy") as file:
            header = {"descr": rest.dtype.str, "fortran_order": False, "shape": (lengths[split],)}
            np.lib.format.write_array_header_1_0(file, header)
            missing = lengths[split]
            while missing:
                if not len(rest):
                    rest = next(chunks, rest)
                    if not len(rest):
                        raise UserError(changed)
                ids, rest = rest[:missing], rest[missing:]
                file.write(ids.tobytes())
                missing -= len(ids)
                if split == "train":
                    seen[ids] = True
    if len(rest) or next(chunks, None) is not None:
        raise UserError(changed)
    write_json(folder / DIGESTS, {split: sha256(folder / f"{split}.npy") for split in SPLITS})
    vocabulary.save(folder / "vocabulary.json")
    return vocabulary.decode(np.flatnonzero(~seen))


def check_lengths(lengths: dict[str, int], run: Run) -> None:
    """Refuse splits that are too short for a run's batches.

    Args:
        lengths: characters of each split.
        run: of params.yaml.

    Raises:
        UserError: a split is too short; the message has the numbers.
    """
    batch, block = run.training.batch, run.training.block
    # A stream's start is drawn from the first block, so B streams need a block more.
    streams = batch if batch and run.training.batches == "streams" else 0
    train = max((streams + 1) * block, block + 1)
    needed = {"train": train, "validation": block + 1, "test": block + 1}
    if not (run.training.steps or run.training.epochs):
        needed = dict.fromkeys(SPLITS, 1)  # a model that only counts has no batches
    for split in SPLITS:
        if lengths[split] < needed[split]:
            raise UserError(
                f"the {split} split has {lengths[split]:,} characters, but {run.name} needs at "
                f"least {needed[split]:,} (block {block}, batch {batch}): use a longer text, or "
                f"smaller ones in models.{run.entry} of params.yaml"
            )


def check_symbols(name: str, symbols: str, folder: Path) -> None:
    """Refuse a model of another text's symbols.

    Args:
        name: of the model.
        symbols: that it knows, in order.
        folder: of the encoded text.

    Raises:
        UserError: the text has others.
    """
    if symbols != Vocabulary.load(folder / "vocabulary.json").symbols:
        raise UserError(f"models/{name} is of another text than {folder}: run `dvc repro`")


def load_splits(folder: Path) -> dict[str, Ids]:
    """Read the ids of all splits; errors as in `load_split`."""
    return {split: load_split(folder, split) for split in SPLITS}


def load_split(folder: Path, split: str) -> Ids:
    """Read one split's ids, mapped into memory.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / f"{split}.npy"
    try:
        # Copy on write, so that torch takes it as it is: nothing is written, nothing is copied.
        ids: Ids = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro encode` to make it") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it and run `dvc repro encode`"
        ) from None
    digests = read_json(folder / DIGESTS)
    if not isinstance(digests, dict) or digests.get(split) != sha256(path):
        raise UserError(
            f"{path} is damaged (its SHA-256 is not the one in {DIGESTS}): "
            "remove it and run `dvc repro encode`"
        )
    return ids


def describe(folder: Path) -> dict[str, str]:
    """Return where the encoded corpus lies and a digest of its ids, to name it in MLflow.

    It is made of the digests that the ids are compared with when they are read.

    Raises:
        UserError: the file of digests is missing or damaged.
    """
    digests = read_json(folder / DIGESTS)
    if not isinstance(digests, dict) or not set(SPLITS) <= digests.keys():
        raise UserError(f"{folder / DIGESTS} is damaged: remove it and run `dvc repro encode`")
    together = "".join(str(digests[split]) for split in SPLITS)
    return {"source": str(folder), "digest": hashlib.sha256(together.encode()).hexdigest()[:16]}
