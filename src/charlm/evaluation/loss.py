"""The loss: every target of the holdout scored exactly once; sums of nats divided once.

The holdout is validation followed by test. A split is scored with the character before it as the
first input, so a split of N characters has N targets.

- windowed: in windows of fresh context, as public repositories evaluate.
- streaming: a recurrent model carries its state throughout. A model whose block cannot slide sees
  overlapping windows with stride block / 2, so that each prediction rests on half a block at least;
  the sampler's key-value cache does the same.

Shapes: B batch, T time, V vocabulary, N targets.
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
) -> Scores:
    """Score ids[1:], each from all that the model can still see; arguments as in `windowed`."""
    block = model.context_length
    if block is not None and not model.slides:
        return _windows(model, ids, block, block - block // 2, advance)
    collected = _Collected(len(ids) - 1)
    state: State = None
    for inputs_T, targets_T in zip(
        ids[:-1].split(CHARACTERS_PER_PASS), ids[1:].split(CHARACTERS_PER_PASS), strict=True
    ):
        logits_BTV, state = model(inputs_T[None].long(), state)
        advance(collected.add(score(logits_BTV[0], targets_T.long())))
    return collected.scores


@torch.no_grad()
def log_probabilities(model: LanguageModel, ids: Tensor) -> Tensor:
    """Return the log-probabilities of every symbol at each of ids[1:], N x V, float64, on the CPU.

    The state is carried from the first to the last, by any model.

    Args:
        model: in evaluation mode, on the device of the ids.
        ids: the character before the first target, then the N targets.
    """
    parts: list[Tensor] = []
    state: State = None
    for inputs_T in ids[:-1].split(CHARACTERS_PER_PASS):
        logits_BTV, state = model(inputs_T[None].long(), state)
        parts.append(logits_BTV[0].cpu().double().log_softmax(dim=-1))
    return torch.cat(parts)


@torch.no_grad()
def excerpt(
    model: LanguageModel, ids: Tensor, start: int, guesses: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a model predicted at each character of an excerpt; the state is carried.

    Args:
        model: in evaluation mode, on the device of the ids.
        ids: the first input, the characters before the excerpt, and the excerpt.
        start: targets before the excerpt.
        guesses: how many of the likeliest symbols to return.

    Returns:
        bits that each of the P characters of the excerpt costs (P); ids of the likeliest symbols at
        its place, the likeliest first (P x guesses); and their probabilities.
    """
    logits_BTV, _ = model(ids[None, :-1].long())
    log_p_PV = logits_BTV[0, start:].cpu().double().log_softmax(dim=-1)
    targets_P1 = ids[start + 1 :].cpu().long()[:, None]
    best = log_p_PV.topk(min(guesses, log_p_PV.shape[1]), dim=-1)
    bits_P = -log_p_PV.gather(1, targets_P1)[:, 0] / math.log(2)
    return bits_P, best.indices, best.values.exp()


def _windows(
    model: LanguageModel,
    ids: Tensor,
    block: int,
    stride: int,
    advance: Callable[[int], object],
) -> Scores:
    """Score windows that start every `stride` characters; each scores what none before it did."""
    count = len(ids) - 1
    overlap = block - stride
    starts = range(0, max(count - overlap, 1), stride)
    # All windows but the last are whole, so they go through the model many at a time.
    whole = starts[: len(range(0, count - block + 1, stride))]
    collected = _Collected(count)
    offsets_T = torch.arange(block + 1, device=ids.device)
    per_pass = max(1, CHARACTERS_PER_PASS // block)
    for first in range(0, len(whole), per_pass):
        starts_B = torch.tensor(list(whole[first : first + per_pass]), device=ids.device)
        taken = ids[starts_B[:, None] + offsets_T].long()
        logits_BTV, _ = model(taken[:, :-1])
        nats_BT, correct_BT = score(logits_BTV, taken[:, 1:])
        begun = collected.add((nats_BT[0, :overlap], correct_BT[0, :overlap])) if first == 0 else 0
        advance(begun + collected.add((nats_BT[:, overlap:], correct_BT[:, overlap:])))
    if len(whole) < len(starts):
        taken = ids[starts[-1] :].long()
        nats_BT, correct_BT = score(model(taken[None, :-1])[0], taken[None, 1:])
        skip = overlap if whole else 0
        advance(collected.add((nats_BT[:, skip:], correct_BT[:, skip:])))
    return collected.scores


class _Collected:
    """Scores of N targets, of which each pass adds some.

    Memory is taken at once: a piece kept from each pass, between the logits that come and go, would
    leave holes of many times its size.

    Attributes:
        scores: of all targets, once every pass was added.
    """

    def __init__(self, count: int) -> None:
        self.scores = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.bool)
        self._added = 0

    def add(self, scores: Scores) -> int:
        """Add the next scores, of any shape, and return how many they are."""
        count = scores[0].numel()
        for whole, part in zip(self.scores, scores, strict=True):
            whole[self._added : self._added + count] = part.flatten()
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
