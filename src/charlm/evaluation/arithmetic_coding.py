"""An arithmetic coder over any model of the zoo: the proof that a loss is a length.

A model that loses b bits per character on a text compresses it to b bits per character, and what is
compressed comes back as it was, byte for byte. Coder and decoder ask the same model for the same
distributions, one character after the other, so that both know what the other knew.

    range coder of 64 bits with carry; frequencies of 24 bits, each at least 1, that sum to 2^24

A floating-point sum may differ in its last bit from one processor or version to another, and one
bit is enough to read another text: a file names the platform and the weights that made it, and no
others read it.

Source: Martin, "Range encoding", 1979; Witten, Neal and Cleary, "Arithmetic Coding for Data
Compression", 1987.

Shapes: V symbols.
"""

import contextlib
import hashlib
import json
import platform
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.evaluation.dynamic import Learner
from charlm.models.base import LanguageModel, State, detach

if TYPE_CHECKING:
    from charlm.config.params import Dynamic

PRECISION = 24
TOP, LOWEST = 1 << 64, 1 << 56
HEADER = struct.Struct(">2s4s4sIHI")
"""Magic, platform, weights, characters, the character before the first, checksum: 20 bytes."""
MAGIC, OLDER = b"c2", b"c1"


def frequencies(logits_V: Tensor) -> NDArray[np.int64]:
    """Return integers of at least 1 that sum to 2^24, as near to the probabilities as they can be.

    >>> frequencies(torch.tensor([0.0, 0.0])).tolist()
    [8388608, 8388608]
    """
    total, symbols = 1 << PRECISION, len(logits_V)
    p_V = torch.softmax(logits_V.double(), dim=-1).numpy()
    found: NDArray[np.int64] = np.floor(p_V * (total - symbols)).astype(np.int64) + 1
    found[int(found.argmax())] += total - int(found.sum())
    return found


class Encoder:
    """Turns symbols, each with its distribution, into bytes."""

    def __init__(self) -> None:
        self._low, self._range = 0, TOP - 1
        self._bytes = bytearray()

    def put(self, start: int, size: int) -> None:
        """Add a symbol whose frequency is `size` and that follows symbols of `start` together."""
        self._range >>= PRECISION
        self._low += self._range * start
        self._range *= size
        self._carry()
        while self._range < LOWEST:
            self._bytes.append(self._low >> 56)
            self._low = (self._low << 8) % TOP
            self._range <<= 8

    def end(self) -> bytes:
        """Return all bytes, the last as few as still tell the text from every other."""
        for count in range(1, 9):
            unit = 1 << 64 - 8 * count
            value = -(-self._low // unit) * unit
            if value < self._low + self._range:
                break
        self._low = value
        self._carry()
        self._bytes += self._low.to_bytes(8, "big")[:count]
        return bytes(self._bytes)

    def _carry(self) -> None:
        if self._low >= TOP:
            self._low -= TOP
            place = len(self._bytes) - 1
            while self._bytes[place] == 255:
                self._bytes[place] = 0
                place -= 1
            self._bytes[place] += 1


class Decoder:
    """Turns the bytes back; what lies behind them counts as zeros."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 8
        self._code = int.from_bytes(content[:8].ljust(8, b"\0"), "big")
        self._range = TOP - 1

    @property
    def exhausted(self) -> bool:
        """Whether more was read than any coder writes for what was asked for."""
        return self._place > len(self._content) + 7

    def get(self, sizes_V: NDArray[np.int64]) -> int:
        """Return the next symbol, given the frequencies that it was put with."""
        self._range >>= PRECISION
        ends_V = np.cumsum(sizes_V)
        # A damaged file may ask for more than there is.
        value = min(self._code // self._range, (1 << PRECISION) - 1)
        symbol = int(np.searchsorted(ends_V, value, side="right"))
        size = int(sizes_V[symbol])
        self._code -= self._range * (int(ends_V[symbol]) - size)
        self._range *= size
        while self._range < LOWEST:
            following = self._content[self._place : self._place + 1]
            self._code = (self._code << 8 | (following[0] if following else 0)) % TOP
            self._range <<= 8
            self._place += 1
        return symbol


@dataclass(frozen=True)
class Lessons:
    """How a model learns from the text that is coded, as in dynamic evaluation.

    Attributes:
        past: ids of the text that it was trained on; the last stands before the text's first.
        how: the step, and how often it is taken.
    """

    past: Sequence[int]
    how: "Dynamic"


class _Predictor:
    """One character a call, for coder and decoder alike, so that sums keep their order."""

    def __init__(
        self, model: LanguageModel, first: int, symbols: str, lessons: Lessons | None
    ) -> None:
        self._model = model
        # A tensor once: making one of a list of a million numbers takes longer than a piece.
        self._past_M = torch.tensor([first] if lessons is None else list(lessons.past))
        self._text = [int(self._past_M[-1])]
        # Before the first character of the piece that the model learns from once it is full.
        self._state: State = None
        self._began, self._behind = len(self._text), self._state
        self._every, self._learner = 0, None
        if lessons is not None:
            self._every = lessons.how.every
            self._learner = Learner(model, self._past_M, lessons.how, symbols)
        self._predict()

    @torch.no_grad()
    def _predict(self) -> None:
        # oneDNN packs an LSTM's weights anew in each call: for one character, most of the time.
        with torch.backends.mkldnn.flags(enabled=False):
            logits_BTV, self._state = self._model(torch.tensor([self._text[-1:]]), self._state)
        logits_SV = logits_BTV[0]
        if self._learner:
            self._learner.read(self._text[-1:])
            logits_SV = self._learner.predict(logits_SV)
        self.sizes_V = frequencies(logits_SV[-1])

    def learn(self, symbol: int) -> None:
        """Read a character; `sizes_V` are then the frequencies of the next."""
        self._text.append(symbol)
        if self._learner and len(self._text) - self._began == self._every:
            self._learn(self._learner)
        self._predict()

    def _learn(self, learner: Learner) -> None:
        """Learn from the piece that is full, as scoring does, and go on from its end."""
        piece = torch.tensor(self._text[-self._every - 1 :])
        logits_BTV, self._state = self._model(piece[None, :-1], self._behind)
        self._state = self._behind = detach(self._state)
        learner.step(learner.predict(logits_BTV[0]), piece[1:])
        self._began = len(self._text)
        if learner.recount_is_due(len(self._text) - 1):
            learner.recount(torch.cat([self._past_M, torch.tensor(self._text[1:])]))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sum on one thread: how a sum is split among several is not ours to say."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # Switching oneDNN off warns about Intel's GPUs.
        warnings.filterwarnings("ignore", "TF32 acceleration")
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@_one_thread()
def compress(
    model: LanguageModel,
    ids: Iterable[int],
    first: int,
    vocabulary: Vocabulary,
    weights: str,
    advance: Callable[[int], object] = lambda count: None,
    lessons: Lessons | None = None,
) -> bytes:
    """Return a text as bytes, header included.

    Args:
        model: in evaluation mode, on the CPU.
        ids: the text.
        first: id of the character before it, from which its first is predicted.
        vocabulary: of the model.
        weights: SHA-256 of the model's weights, in hexadecimal.
        advance: called with 1 for each character.
        lessons: how the model learns on the way, which changes it; None leaves it as it is.
    """
    predictor = _Predictor(model, first, vocabulary.symbols, lessons)
    coder, text = Encoder(), []
    for symbol in ids:
        coder.put(int(predictor.sizes_V[:symbol].sum()), int(predictor.sizes_V[symbol]))
        text.append(symbol)
        predictor.learn(symbol)
        advance(1)
    checksum = zlib.crc32(vocabulary.decode(text).encode("utf-8"))
    header = HEADER.pack(MAGIC, _platform(), bytes.fromhex(weights[:8]), len(text), first, checksum)
    return header + coder.end()


def length(content: bytes) -> int:
    """Return how many characters a compressed text has.

    Raises:
        UserError: it is not one.
    """
    return int(_header(content)[3])


@_one_thread()
def restore(
    model: LanguageModel,
    content: bytes,
    vocabulary: Vocabulary,
    weights: str,
    advance: Callable[[int], object] = lambda count: None,
    lessons: Lessons | None = None,
) -> str:
    """Return the text that `compress` was given; arguments as there.

    Raises:
        UserError: the file is damaged, or another platform or other weights made it.
    """
    _, made_on, made_by, count, first, checksum = _header(content)
    if made_by != bytes.fromhex(weights[:8]):
        raise UserError("it was compressed with other weights: restore it with those")
    if made_on != _platform():
        raise UserError(
            "it was compressed on another platform, where sums may round differently: restore it "
            f"there (here: {_describe()})"
        )
    if first >= len(vocabulary):
        raise UserError("it is damaged: its first character is not in the vocabulary")
    coder, ids = Decoder(content[HEADER.size :]), []
    predictor = _Predictor(model, first, vocabulary.symbols, lessons)
    for _ in range(count):
        ids.append(coder.get(predictor.sizes_V))
        if coder.exhausted:
            raise UserError("it is damaged: it ends too early")
        predictor.learn(ids[-1])
        advance(1)
    text = vocabulary.decode(ids)
    if zlib.crc32(text.encode("utf-8")) != checksum:
        raise UserError("it is damaged: what comes out has another checksum")
    return text


def _header(content: bytes) -> tuple[bytes, bytes, bytes, int, int, int]:
    if content[:2] == OLDER:
        raise UserError("an earlier version of charlm compressed it, and it alone can restore it")
    if len(content) < HEADER.size or content[:2] != MAGIC:
        raise UserError("it is not a text that charlm compressed")
    magic, made_on, made_by, count, first, checksum = HEADER.unpack_from(content)
    return magic, made_on, made_by, count, first, checksum


def _describe() -> str:
    """Return all that decides how a sum is rounded."""
    return (
        f"{platform.system()} {platform.machine()}, torch {torch.__version__} with "
        f"{torch.backends.cpu.get_cpu_capability()}, numpy {np.__version__}"
    )


def _platform() -> bytes:
    return hashlib.sha256(json.dumps(_describe()).encode()).digest()[:4]
