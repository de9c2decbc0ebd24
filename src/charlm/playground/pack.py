"""Trained models as one archive that a browser reads: a list of arrays and their bytes.

Large matrices are int8 with a scale for each row, the rest float32. N-grams are stored as a trie:
for each context how many symbols follow it, then those symbols, then their counts. Arrays with
equal content are stored once: the members of an ensemble are models of their own too.

Shapes: G n-grams of an order, C contexts (n-grams of the order below), V vocabulary.
"""

import gzip
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.ngrams.kneser_ney import discounts

SMALL = 1 << 14
"""Numbers of a matrix up to which it stays float32."""

Tensors = dict[str, NDArray[Any]]


@dataclass
class Archive:
    """Arrays, each stored once.

    Attributes:
        arrays: of each: type, shape, and where its bytes begin.
    """

    arrays: list[dict[str, Any]] = field(default_factory=list)
    _parts: list[bytes] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)
    _length: int = 0

    def add(self, array: NDArray[Any]) -> int:
        """Store an array, unless its like is there; return its number."""
        array = np.ascontiguousarray(array)
        content = array.tobytes()
        head = f"{array.dtype} {array.shape} ".encode()
        digest = hashlib.sha256(head + content).hexdigest()
        if digest not in self._known:
            self._known[digest] = len(self.arrays)
            shape = list(array.shape)
            self.arrays.append({"type": array.dtype.name, "shape": shape, "at": self._length})
            # Every array begins where a number of four bytes may.
            self._parts.append(content + bytes(-len(content) % 4))
            self._length += len(self._parts[-1])
        return self._known[digest]

    def content(self) -> bytes:
        """Return all bytes, compressed."""
        return gzip.compress(b"".join(self._parts), 9, mtime=0)


def tensor(archive: Archive, values: NDArray[Any]) -> dict[str, int]:
    """Store a tensor of a model: as it is, or as int8 with a scale for each row.

    >>> archive = Archive()
    >>> tensor(archive, np.ones((100, 200), dtype=np.float32))
    {'values': 0, 'scales': 1}
    """
    values = values.astype(np.float32)
    if values.ndim != 2 or values.size <= SMALL:
        return {"values": archive.add(values)}
    scales = np.abs(values).max(axis=1) / 127
    whole = np.rint(values / np.maximum(scales, np.finfo(np.float32).tiny)[:, None])
    return {
        "values": archive.add(whole.astype(np.int8)),
        "scales": archive.add(scales.astype(np.float32)),
    }


def trie(archive: Archive, tensors: Tensors, vocabulary: int, kinds: int) -> list[dict[str, Any]]:
    """Store n-grams, as charlm.ngrams.module.NgramCounts has them: an entry for each order.

    Args:
        archive: to store them in.
        tensors: codes_1, counts_1, codes_2, ...
        vocabulary: number of symbols, V.
        kinds: of discounts, 3 or 1.
    """
    levels, contexts = [], 1
    narrow = np.uint8 if vocabulary <= 256 else np.uint16
    for n in range(1, len(tensors) // 2 + 1):
        codes_G, counts_G = tensors[f"codes_{n}"], tensors[f"counts_{n}"]
        if not len(codes_G):
            break
        sizes_C = np.bincount(codes_G // vocabulary, minlength=contexts)
        levels.append(
            {
                "sizes": archive.add(varints(sizes_C)),
                "symbols": archive.add((codes_G % vocabulary).astype(narrow)),
                "counts": archive.add(varints(counts_G)),
                "discounts": list(discounts(counts_G, kinds)),
            }
        )
        contexts = len(codes_G)
    return levels


def varints(numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return numbers below 2^35 as bytes of seven bits; the highest bit says that more follow.

    >>> varints(np.array([1, 300])).tolist()
    [1, 172, 2]
    """
    numbers = numbers.astype(np.int64)
    columns = np.stack([numbers >> 7 * place & 127 for place in range(5)], axis=1)
    more = np.stack([numbers >> 7 * (place + 1) > 0 for place in range(5)], axis=1)
    used = np.concatenate([np.ones((len(numbers), 1), dtype=bool), more[:, :-1]], axis=1)
    found: NDArray[np.uint8] = (columns | more << 7)[used].astype(np.uint8)
    return found


def model(
    archive: Archive, kind: str, block: int, sizes: dict[str, Any], tensors: Tensors, symbols: int
) -> dict[str, Any]:
    """Store a model; return what models.js builds it from.

    Args:
        archive: to store it in.
        kind: its architecture, a file of charlm.models.
        block: training window, in characters.
        sizes: of its architecture.
        tensors: its weights and counts, by name.
        symbols: of the vocabulary, V.
    """
    found: dict[str, Any] = {"kind": kind, "block": block, "symbols": symbols}
    if kind == "ensemble":
        found["members"] = [
            model(
                archive,
                member["model"],
                member["block"],
                member["architecture"],
                below(tensors, f"members.{place}."),
                symbols,
            )
            for place, member in enumerate(sizes["members"])
        ]
        sizes = {"mixing": sizes["mixing"]}
    own = {n: t for n, t in tensors.items() if not n.startswith(("ngrams.", "members."))}
    counted = below(tensors, "ngrams.")
    if counted:
        found["counts"] = trie(archive, counted, symbols, sizes.get("discounts", 3))
    found["sizes"] = sizes
    found["tensors"] = {name: tensor(archive, values) for name, values in own.items()}
    return found


def kinds(kind: str, sizes: dict[str, Any]) -> set[str]:
    """Return a model's architecture and those of its members; arguments as of `model`."""
    members = sizes["members"] if kind == "ensemble" else []
    return {kind}.union(*(kinds(each["model"], each["architecture"]) for each in members))


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin so, without the beginning."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
