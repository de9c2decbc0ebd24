"""The one interface for every model.

Shapes: B batch (sequences), T time (characters), V vocabulary (symbols).
"""

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

GOLDEN = -7046029254386353131
"""2^64 divided by the golden ratio, as a signed number."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt, from malloc.h."""

KEPT_BYTES = 1 << 29
"""Freed memory that a process keeps, at most; one piece of it is an eighth at most."""

State = Any
"""What a model remembers of the characters before: None, a tensor or nested tuples of tensors."""


class LanguageModel(nn.Module, ABC):
    """Maps characters to the logits of the character that follows each.

    Attributes:
        context_length: how many characters a prediction can depend on; None means all before it.
        slides: whether a carried state is as good as reading the last `context_length` characters
            again. Models with learned absolute positions say False: their cache cannot slide.
        features: number of feature vectors (of V numbers each) per character, K; 0 for none.

    A subclass `Model` of a file is built as Model(vocabulary_size, block, architecture), where the
    sizes of its entry are attributes of `architecture`.
    """

    context_length: int | None
    slides: bool = True
    features: int = 0

    @abstractmethod
    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict the character after each input.

        Args:
            ids_BT: integers in [0, V).
            state: what an earlier call returned; None starts afresh.

        Returns:
            logits_BTV, where logits[:, t] depends on ids[:, :t + 1] and the state alone, and the
            state after the last character.

        A model with features takes them as a third argument, features_BTKV, while it is trained.
        """

    def prepare(
        self, ids_N: Tensor, advance: Callable[[int], object] = lambda characters: None
    ) -> Tensor | None:
        """Get ready to be trained on a text; called once, before the first step.

        A model that counts counts here. A model on top of counts returns their predictions of the
        training text as features; all others return None. A model with a `prepare` of its own calls
        `recount` too.

        Args:
            ids_N: the training text, integers in [0, V), of one or two bytes each: index with
                ids_N.long().
            advance: called with the number of characters just read.

        Returns:
            features_NKV in float16 for each character but the last, or None.
        """
        self.recount(ids_N)
        return None

    def recount(self, ids_N: Tensor) -> None:
        """Count a text, in place of the one counted before; a model without counts does nothing."""

    @property
    def parameter_count(self) -> int:
        """Number of fitted numbers: parameters, stored counts and weights of an ensemble."""
        fitted = [
            buffer
            for name, buffer in self.named_buffers()
            if name.rpartition(".")[2].startswith(("counts", "weights"))
        ]
        return sum(values.numel() for values in [*self.parameters(), *fitted])


class BlockModel(LanguageModel):
    """A model that sees at most a block: forward() and the state are written once for all of them.

    A subclass says how characters are encoded behind those already cached, in `extend`. When the
    block is full, the older half is dropped and the newer half encoded again from position 0
    (learned absolute positions forbid sliding a cache): a prediction then rests on at least
    block / 2 characters, the same rule as evaluation's overlapping windows. The state is the ids
    of the characters in the block and the cache that they made.
    """

    context_length: int
    slides = False

    def __init__(self, block: int) -> None:
        super().__init__()
        self.context_length = block

    @abstractmethod
    def extend(self, ids_BT: Tensor, start: int, cache: Any) -> tuple[Tensor, Any]:
        """Encode T characters at positions start, start + 1, ... below the block.

        Args:
            ids_BT: integers in [0, V).
            start: how many characters are cached.
            cache: what `extend` returned for them; None if start is 0.

        Returns:
            logits_BTV and the new cache.
        """

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict any number of characters; the block bounds what each can see."""
        block = self.context_length
        logits = []
        while True:
            if state is not None and state[0].shape[1] == block:
                kept_BS = state[0][:, block - block // 2 :]
                state = (kept_BS, self.extend(kept_BS, 0, None)[1]) if kept_BS.shape[1] else None
            seen_BS, cache = (ids_BT[:, :0], None) if state is None else state
            start = seen_BS.shape[1]
            new_BT, ids_BT = ids_BT[:, : block - start], ids_BT[:, block - start :]
            logits_BTV, cache = self.extend(new_BT, start, cache)
            state = (torch.cat([seen_BS, new_BT], dim=1), cache)
            logits.append(logits_BTV)
            if not ids_BT.shape[1]:
                return torch.cat(logits, dim=1) if len(logits) > 1 else logits_BTV, state


def detach(state: State) -> State:
    """Cut a state off the graph that made it, so that back-propagation through time ends here."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        return tuple(detach(part) for part in state)
    return state


class PairEmbedding(nn.Module):
    """A vector for each pair of characters, zeros at first.

    Each pair has a row of its own if there are rows enough; otherwise pairs share rows by a hash.

    Source: Bojanowski et al., "Enriching Word Vectors with Subword Information", 2017 (the hash).

    Args:
        symbols: of the vocabulary, V.
        rows: at most.
        width: of a vector, D.
    """

    def __init__(self, symbols: int, rows: int, width: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.weight = nn.Parameter(torch.zeros(min(rows, symbols**2), width))

    def forward(self, ids_BT: Tensor, last_B1: Tensor) -> Tensor:
        """Return the vectors of each character and the one before it, B x T x D.

        Args:
            ids_BT: the characters.
            last_B1: the one before the first.
        """
        before_BT = torch.cat([last_B1, ids_BT[:, :-1]], dim=1)
        codes_BT = before_BT * self.symbols + ids_BT
        if len(self.weight) < self.symbols**2:
            # Fibonacci hashing: the product's upper bits depend on both symbols.
            codes_BT = (codes_BT * GOLDEN >> 32) % len(self.weight)
        return functional.embedding(codes_BT, self.weight)


def over_time(dropout: nn.Dropout1d, x_BTD: Tensor) -> Tensor:
    """Drop features, the same ones at all characters of a sequence."""
    dropped_BDT: Tensor = dropout(x_BTD.transpose(1, 2))
    return dropped_BDT.transpose(1, 2)


def start_torch(threads: int = 1) -> torch.device:
    """Make torch deterministic and return the fastest device of this machine: cuda, mps or cpu.

    Args:
        threads: of the CPU. Never the number of its cores: sums in another order are other numbers.
    """
    torch.set_num_threads(threads)
    _keep_freed_memory()
    # The same as use_deterministic_algorithms(True), which imports the compiler too (1 s).
    torch.set_deterministic_debug_mode("error")
    # That would fill all new memory too, lest something read it unwritten: nothing here does, and a
    # step of `lstm` takes 5 % longer with it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees: the next step takes it again.

    Otherwise it goes back to the system, and comes back page by page: 7,000 page faults were a
    third of a step of `lstm` (docs/lab-notebook.md). Elsewhere than on Linux nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_THRESHOLD, KEPT_BYTES // 8), (M_TRIM_THRESHOLD, KEPT_BYTES)):
            mallopt(option, value)
