"""The loss: every target of the holdout scored exactly once; sums of nats divided once.

The holdout is validation followed by test. A split is scored with the character before it as the
first input, so a split of N characters has N targets.

- windowed: in windows of fresh context, as public repositories evaluate.
- streaming: a recurrent model carries its state throughout. A model whose block cannot slide sees
  overlapping windows with stride block / 2, so that each prediction rests on half a block at least;
  the sampler's key-value cache does the same.

Shapes: B batch, T time, V vocabulary, N targets, R rows of log-probabilities, at most N.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from charlm.models.base import LanguageModel, State

CHARACTERS_PER_PASS = 8192
"""Characters scored in one call of a model: bounds the memory that logits take."""

SMALLEST_KEPT = -60_000.0
"""Log-probability that float16 can hold."""

Scores = tuple[Tensor, Tensor]
"""For each target its nats (float64, N) and whether it was the likeliest symbol (bool, N)."""


def score(logits_BTV: Tensor, targets_BT: Tensor) -> Scores:
    """Return nats and correctness of each target, shaped like the targets, on the CPU."""
    log_probs_BTV = functional.log_softmax(logits_BTV.float(), dim=-1)
    nats_BT = -log_probs_BTV.gather(-1, targets_BT[..., None])[..., 0]
    correct_BT = logits_BTV.argmax(-1) == targets_BT
    return nats_BT.cpu().double(), correct_BT.cpu()


@torch.no_grad()
def windowed(
    model: LanguageModel,
    ids: Tensor,
    block: int,
    advance: Callable[[int], object] = lambda characters: None,
) -> Scores:
    """Score ids[1:] in windows of fresh context, one behind the other.

    Args:
        model: in evaluation mode, on the device of the ids.
        ids: the character before the first target, then the N targets.
        block: characters per window; the last window may be shorter.
        advance: called with the number of targets just scored.
    """
    return _windows(model, ids, block, block, advance)


@torch.no_grad()
def streaming(
    model: LanguageModel,
    ids: Tensor,
    advance: Callable[[int], object] = lambda characters: None,
    rows_RV: Tensor | None = None,
) -> Scores:
    """Score ids[1:], each from all that the model can still see.

    Args:
        model: as in `windowed`.
        ids: as in `windowed`.
        advance: as in `windowed`.
        rows_RV: filled with the log-probabilities of every symbol at the first R targets.
    """
    block = model.context_length
    if block is not None and not model.slides:
        return _windows(model, ids, block, block - block // 2, advance, rows_RV)
    collected = Collected(len(ids) - 1, rows_RV)
    state: State = None
    for inputs_T, targets_T in zip(
        ids[:-1].split(CHARACTERS_PER_PASS), ids[1:].split(CHARACTERS_PER_PASS), strict=True
    ):
        logits_BTV, state = model(inputs_T[None].long(), state)
        advance(collected.add(logits_BTV[0], targets_T.long()))
    return collected.scores


def _windows(
    model: LanguageModel,
    ids: Tensor,
    block: int,
    stride: int,
    advance: Callable[[int], object],
    rows_RV: Tensor | None = None,
) -> Scores:
    """Score windows that start every `stride` characters; each scores what none before it did."""
    count = len(ids) - 1
    overlap = block - stride
    starts = range(0, max(count - overlap, 1), stride)
    # All windows but the last are whole, so they go through the model many at a time.
    whole = starts[: len(range(0, count - block + 1, stride))]
    collected = Collected(count, rows_RV)
    offsets_T = torch.arange(block + 1, device=ids.device)
    per_pass = max(1, CHARACTERS_PER_PASS // block)
    for first in range(0, len(whole), per_pass):
        starts_B = torch.tensor(list(whole[first : first + per_pass]), device=ids.device)
        taken = ids[starts_B[:, None] + offsets_T].long()
        logits_BTV, _ = model(taken[:, :-1])
        targets_BT = taken[:, 1:]
        begun = collected.add(logits_BTV[0, :overlap], targets_BT[0, :overlap]) if not first else 0
        advance(begun + collected.add(logits_BTV[:, overlap:], targets_BT[:, overlap:]))
    if len(whole) < len(starts):
        taken = ids[starts[-1] :].long()
        logits_BTV, _ = model(taken[None, :-1])
        skip = overlap if whole else 0
        advance(collected.add(logits_BTV[0, skip:], taken[1 + skip :]))
    return collected.scores


class Collected:
    """Scores of N targets, of which each pass adds some.

    Memory is taken at once: a piece kept from each pass, between the logits that come and go, would
    leave holes of many times its size.

    Args:
        count: N.
        rows_RV: filled with the log-probabilities of every symbol at the first R targets.

    Attributes:
        scores: of all targets, once every pass was added.
    """

    def __init__(self, count: int, rows_RV: Tensor | None = None) -> None:
        self.scores = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.bool)
        self._rows_RV = rows_RV
        self._added = 0

    def add(self, logits: Tensor, targets: Tensor) -> int:
        """Score the next targets, and return how many they are.

        Args:
            logits: of every symbol, V in the last dimension.
            targets: their ids, shaped like the other dimensions.
        """
        count, first = targets.numel(), self._added
        for whole, part in zip(self.scores, score(logits, targets), strict=True):
            whole[first : first + count] = part.flatten()
        if self._rows_RV is not None and first < len(self._rows_RV):
            log_p_NV = functional.log_softmax(logits.float(), dim=-1).flatten(0, -2)
            room_RV = self._rows_RV[first : first + count]
            # float16 would round what is smaller to minus infinity.
            room_RV.copy_(log_p_NV[: len(room_RV)].clamp(min=SMALLEST_KEPT))
        self._added += count
        return count


def summarise(scores: Scores, bytes_: int) -> dict[str, float | int]:
    """Return one leaf of metrics.json.

    Args:
        scores: of the N targets of a split.
        bytes_: length of those targets in UTF-8, which bits per byte divides by.
    """
    nats_N, correct_N = scores
    count = nats_N.numel()
    # fsum: the sum of 100,000 terms, correctly rounded whatever the order; a Python number takes
    # four times a tensor's, so there are never many of them.
    parts = nats_N.split(CHARACTERS_PER_PASS)
    total = math.fsum(itertools.chain.from_iterable(part.tolist() for part in parts))
    mean = total / count
    return {
        "nats_per_char": mean,
        "bits_per_char": mean / math.log(2),
        "bits_per_byte": total / bytes_ / math.log(2),
        "perplexity": math.exp(min(mean, 700.0)),
        "accuracy": int(correct_N.sum()) / count,
        "characters": count,
    }
