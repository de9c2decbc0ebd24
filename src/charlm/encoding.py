"""Text becomes ids, cut into train, validation and test in the order of the text."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UserError
from charlm.files import write_bytes
from charlm.params import Entry
from charlm.vocabulary import Vocabulary

SPLITS = ("train", "validation", "test")
Ids = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Encoded:
    """A corpus ready for training.

    Attributes:
        vocabulary: of the whole text.
        splits: ids of each split, one dimension, uint8 or uint16.
        unseen: symbols that the holdout needs and the training split lacks, sorted.
    """

    vocabulary: Vocabulary
    splits: dict[str, Ids]
    unseen: str


def read_text(path: Path) -> str:
    """Read UTF-8 text, every character kept as it is, line endings too.

    Raises:
        UserError: the file is missing, empty or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} "
            f"({error.reason})"
        ) from None
    if not text:
        raise UserError(f"{path} is empty: a corpus needs characters")
    return text


def encode(text: str, train: float, validation: float) -> Encoded:
    """Encode a text and cut it where the shares end, rounded down.

    Args:
        text: at least one character.
        train: share of the first split, in (0, 1).
        validation: share of the second; the third is the rest.
    """
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    first, second = int(len(ids) * train), int(len(ids) * (train + validation))
    splits = dict(zip(SPLITS, np.split(ids, [first, second]), strict=True))
    seen = np.zeros(len(vocabulary), dtype=bool)
    seen[splits["train"]] = True
    unseen = vocabulary.decode(np.flatnonzero(~seen))
    return Encoded(vocabulary, splits, unseen)


def check_lengths(lengths: dict[str, int], entry: Entry) -> None:
    """Refuse splits that are too short for a model's batches.

    Args:
        lengths: characters of each split.
        entry: the model as params.yaml describes it.

    Raises:
        UserError: a split is too short; the message has the numbers.
    """
    batch, block = entry.training.batch, entry.training.block
    # A stream's start is drawn from the first block, so B streams need a block more.
    streams = batch if batch and entry.training.batches == "streams" else 0
    train = max((streams + 1) * block, block + 1)
    needed = {"train": train, "validation": block + 1, "test": block + 1}
    for split in SPLITS:
        if lengths[split] < needed[split]:
            raise UserError(
                f"the {split} split has {lengths[split]:,} characters, but {entry.name} needs at "
                f"least {needed[split]:,} (block {block}, batch {batch}): use a longer text, or "
                f"smaller ones in models.{entry.name} of params.yaml"
            )


def save(encoded: Encoded, folder: Path) -> None:
    """Write vocabulary.json and SPLIT.npy for each split."""
    encoded.vocabulary.save(folder / "vocabulary.json")
    for split, ids in encoded.splits.items():
        buffer = io.BytesIO()
        np.save(buffer, ids, allow_pickle=False)
        write_bytes(folder / f"{split}.npy", buffer.getvalue())


def load_split(folder: Path, split: str) -> Ids:
    """Read one split's ids, mapped into memory.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / f"{split}.npy"
    try:
        ids: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro encode` to make it") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it and run `dvc repro encode`"
        ) from None
    return ids


def describe(folder: Path) -> dict[str, str]:
    """Return where the encoded corpus lies and a digest of its ids, to name it in MLflow."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(load_split(folder, split).tobytes())
    return {"source": str(folder), "digest": digest.hexdigest()[:16]}
