"""What general compressors make of the text: opponents that learn as they go.

A compressor adapts to the very text it is measured on, so its figures stand beside static models
only as a reference. The holdout costs what it adds: size(all of the text) - size(training split).

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
"""Each at its strongest; ppmd looks 6 characters back."""


def bits(train: bytes, rest: bytes) -> dict[str, dict[str, int]]:
    """Return for each compressor the bits of the whole text, and what the rest adds to `train`.

    Args:
        train: the training split in UTF-8.
        rest: what comes after it, in UTF-8.
    """
    found = {}
    for name, compress in COMPRESSORS.items():
        whole = 8 * len(compress(train + rest))
        found[name] = {"whole": whole, "holdout": whole - 8 * len(compress(train))}
    return found
