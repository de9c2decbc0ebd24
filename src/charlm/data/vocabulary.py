"""The vocabulary: symbols in code point order, numbered from 0."""

import unicodedata
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UserError
from charlm.files import read_json, write_json

MAX_SYMBOLS = 1 << 16
"""Ids are stored in at most 16 bits."""


class Vocabulary:
    """Maps characters (Unicode code points) to ids and back.

    >>> vocabulary = Vocabulary("abn")
    >>> vocabulary.encode("banana").tolist()
    [1, 0, 2, 0, 2, 0]
    >>> vocabulary.decode([1, 0, 2])
    'ban'

    Args:
        symbols: each symbol once, in ascending order of code points.

    Raises:
        UserError: the symbols are not sorted and distinct, or there are more than 65,536.
    """

    def __init__(self, symbols: str) -> None:
        if list(symbols) != sorted(set(symbols)):
            raise UserError("a vocabulary must hold each symbol once, in code point order")
        if len(symbols) > MAX_SYMBOLS:
            raise UserError(f"{len(symbols):,} different symbols (at most {MAX_SYMBOLS:,})")
        self.symbols = symbols
        points = code_points(symbols)
        # The last place stands for every code point beyond the vocabulary's last.
        self._ids_of_points = np.full(int(points.max(initial=0)) + 2, -1, dtype=np.int32)
        self._ids_of_points[points] = np.arange(len(points))

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the vocabulary of a text: all its symbols."""
        return cls("".join(sorted(set(text))))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        content = read_json(path)
        symbols = content.get("symbols") if isinstance(content, dict) else None
        if not isinstance(symbols, str):
            raise UserError(f"{path} is damaged (no symbols): remove it and run `dvc repro`")
        return cls(symbols)

    def save(self, path: Path) -> None:
        """Write the symbols as JSON."""
        write_json(path, {"size": len(self), "symbols": self.symbols})

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest unsigned integer that holds every id."""
        return np.uint8 if len(self) <= 256 else np.uint16

    @property
    def bytes_of_ids(self) -> NDArray[np.int64]:
        """Length in UTF-8 of each symbol, by id."""
        return np.array([len(symbol.encode("utf-8")) for symbol in self.symbols], dtype=np.int64)

    def encode(self, text: str) -> NDArray[np.uint8 | np.uint16]:
        """Return the ids of a text.

        Raises:
            UserError: a symbol is not in the vocabulary; the message has it and its position.
        """
        return self.encode_points(code_points(text))

    def encode_points(self, points: NDArray[np.unsignedinteger]) -> NDArray[np.uint8 | np.uint16]:
        """Return the ids of code points; errors as in `encode`."""
        ids = self._ids_of_points[np.minimum(points.astype(np.intp), len(self._ids_of_points) - 1)]
        if (ids < 0).any():
            position = int(np.argmax(ids < 0))
            symbol = chr(int(points[position]))
            after = chr(int(points[position + 1])) if position + 1 < len(points) else ""
            raise UserError(
                f"symbol {symbol!r} (U+{ord(symbol):04X}) at position {position} is not in the "
                f"vocabulary of {len(self):,} symbols{self._hint(symbol, after)}"
            )
        narrow: NDArray[np.uint8 | np.uint16] = ids.astype(self.dtype)
        return narrow

    def _hint(self, symbol: str, after: str) -> str:
        """Return what may have been meant by a symbol that is not here, and the one after it."""
        if symbol == "\\" and after == "n":
            return "; a shell writes a line end as $'\\n'"
        bare = unicodedata.normalize("NFKD", symbol)[:1]
        for other in (symbol.lower(), symbol.upper(), bare, bare.lower(), bare.upper()):
            if other in self.symbols:
                return f", which has {other!r}"
        return ""

    def decode(self, ids: "list[int] | NDArray[np.integer]") -> str:
        """Return the text of some ids."""
        symbols = np.array(list(self.symbols), dtype="<U1")
        return symbols[np.asarray(ids, dtype=np.intp)].tobytes().decode("utf-32-le")


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the Unicode code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
