"""Ids become batches: random windows, contiguous streams whose state is carried, or everything.

Shapes: B batch, T time (the block), N length of a split.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DRAWN_AT_ONCE = 100
"""Batches of random windows whose places are drawn in one go."""


class Batch(NamedTuple):
    """Inputs and the characters that follow each of them.

    Attributes:
        inputs_BT: ids.
        targets_BT: ids of the next characters.
        fresh: whether the batch starts elsewhere than where the last one ended, so that no state is
            carried into it.
        features_BTKV: what `prepare` of a model on top of counts returned for each input.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    fresh: bool
    features_BTKV: Tensor | None = None


def windows(ids_N: Tensor, batch: int, block: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield, for ever, windows of the text that start anywhere, each start equally likely.

    Args:
        ids_N: the split, at least block + 1 characters, on any device.
        batch: number of windows, B.
        block: characters per window, T.
        generator: a CPU generator, so that every device sees the same windows.
    """
    offsets_T = torch.arange(block + 1, device=ids_N.device)
    while True:
        # Drawn for many batches at once, so that a GPU is sent something once and not every step.
        drawn = torch.randint(len(ids_N) - block, (DRAWN_AT_ONCE, batch), generator=generator)
        for starts_B in drawn.to(ids_N.device):
            taken = ids_N[starts_B[:, None] + offsets_T].long()
            yield Batch(taken[:, :-1], taken[:, 1:], fresh=True)


def streams(ids_N: Tensor, batch: int, block: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield, for ever, consecutive pieces of B parallel streams that share the text out.

    Each pass through the text starts at a random character below the block, so that the pieces
    are cut at other places every time.

    Args:
        ids_N: the split, at least (batch + 1) * block characters, on any device.
        batch: number of streams, B.
        block: characters per piece, T; gradients end at its start, the state goes on.
        generator: a CPU generator.

    Raises:
        ValueError: the split is shorter than that.
    """
    if len(ids_N) < (batch + 1) * block:
        raise ValueError(f"{len(ids_N)} characters are too few for {batch} streams of {block}")
    while True:
        start = int(torch.randint(block, (), generator=generator))
        length = (len(ids_N) - start - 1) // batch // block * block
        inputs_BL = ids_N[start : start + batch * length].view(batch, length)
        targets_BL = ids_N[start + 1 : start + 1 + batch * length].view(batch, length)
        for position in range(0, length, block):
            piece = slice(position, position + block)
            yield Batch(
                inputs_BL[:, piece].long(), targets_BL[:, piece].long(), fresh=position == 0
            )


def everything(ids_N: Tensor, batch: None, block: int, generator: None = None) -> Iterator[Batch]:
    """Yield, for ever, all windows of the text at once, one starting at every character.

    Args:
        ids_N: the split, at least block + 1 characters, on any device.
        batch: not used: the batch is the whole text.
        block: characters per window, T.
        generator: not used: nothing is drawn.
    """
    taken = ids_N.unfold(0, block + 1, 1).long()
    while True:
        yield Batch(taken[:, :-1], taken[:, 1:], fresh=True)


KINDS: dict[str, Callable[..., Iterator[Batch]]] = {
    "windows": windows,
    "streams": streams,
    "everything": everything,
}


def with_features(
    positions: Iterator[Batch], ids_N: Tensor, features_NKV: Tensor
) -> Iterator[Batch]:
    """Turn batches of positions into batches of ids with their features.

    Batches hold positions so that precomputed features can be gathered together with the ids.

    Args:
        positions: batches drawn from 0, 1, ..., N - 1 instead of a text.
        ids_N: the text.
        features_NKV: of each character but the last.
    """
    for inputs_BT, targets_BT, fresh, _ in positions:
        ids_BT, next_BT = ids_N[inputs_BT].long(), ids_N[targets_BT].long()
        yield Batch(ids_BT, next_BT, fresh, features_NKV[inputs_BT])
