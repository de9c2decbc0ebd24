"""How small general compressors make the text.

A compressor learns from the very text that it is measured on, so its figures are only a reference
beside models that do not. The holdout costs what it adds: size(whole text) - size(training split).

Source: Cleary and Witten, "Data Compression Using Adaptive Coding and Partial String Matching",
1984; Shkarin, "PPM: One Step to Practicality", 2002 (PPMd, variant H).
"""

import bz2
import lzma
import zlib
from collections.abc import Callable

import pyppmd
import zstandard

PPMD_ORDER = 6
PPMD_MEMORY = 1 << 26

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda text: zlib.compress(text, 9),
    "zstandard": lambda text: zstandard.ZstdCompressor(level=22).compress(text),
    "xz": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
    "bzip2": lambda text: bz2.compress(text, 9),
    "ppmd": lambda text: pyppmd.compress(text, max_order=PPMD_ORDER, mem_size=PPMD_MEMORY),
}
"""Each at its strongest level; ppmd looks 6 characters back."""


def bits(train: bytes, validation: bytes, test: bytes) -> dict[str, dict[str, int]]:
    """Return for each compressor the bits of the whole text, and those that its parts add.

    Args:
        train: the training split in UTF-8.
        validation: what comes after it; it adds to train alone.
        test: what comes last; together they are the holdout.
    """
    sizes = {}
    for name, compress in COMPRESSORS.items():
        known, more, whole = (
            8 * len(compress(text))
            for text in (train, train + validation, train + validation + test)
        )
        sizes[name] = {"whole": whole, "holdout": whole - known, "validation": more - known}
    return sizes
