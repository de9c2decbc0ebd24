"""Smoothed n-grams as a torch module: stored as counts, asked for log-probabilities.

Shapes: N characters, B batch, T time, V vocabulary, G distinct n-grams, S characters remembered (at
most n - 1).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from charlm.ngrams.counting import Ints
from charlm.ngrams.kneser_ney import Floats, KneserNey, Level, counts, places


class Smoothed(Protocol):
    """What turns counts into probabilities."""

    def probabilities(self, places: list[Ints]) -> Floats:
        """Return the distribution of the character after each position, T x V.

        Args:
            places: for n = 0, 1, ..., the place of the n-gram that ends at each position, or -1.
        """


class NgramCounts(nn.Module):
    """Smoothed n-grams of order n, fitted by counting.

    The buffers codes_1, counts_1, codes_2, ... are the n-grams of each order and their counts. The
    text decides their lengths, so they are loaded as they are.

    Args:
        vocabulary: number of symbols, V.
        order: n of the longest n-grams, in characters.
        smoothing: makes the model of the counts of each order and the number of symbols.
        continuation: whether lower orders count what comes before; otherwise occurrences.
    """

    def __init__(
        self,
        vocabulary: int,
        order: int,
        smoothing: Callable[[list[Level], int], Smoothed] = KneserNey,
        continuation: bool = True,
    ) -> None:
        super().__init__()
        self.vocabulary, self.order = vocabulary, order
        self.smoothing, self.continuation = smoothing, continuation
        self.context_length = max(1, order - 1)
        for n in range(1, order + 1):
            self.register_buffer(f"codes_{n}", torch.empty(0, dtype=torch.int64))
            self.register_buffer(f"counts_{n}", torch.empty(0, dtype=torch.int64))

    def fit(self, ids_N: Tensor) -> None:
        """Count all n-grams of a text; orders longer than the text stay empty."""
        found = counts(ids_N.cpu().numpy(), self.vocabulary, self.order)
        for n, level in enumerate(found.levels(self.order, self.continuation), start=1):
            self.register_buffer(f"codes_{n}", torch.from_numpy(level.codes_G))
            self.register_buffer(f"counts_{n}", torch.from_numpy(level.counts_G))
        self._smooth()

    def forward(self, ids_BT: Tensor, state_BS: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log-probabilities, B x T x V, and the last n - 1 characters, B x S."""
        seen_BS = ids_BT[:, :0] if state_BS is None else state_BS
        all_BN = torch.cat([seen_BS, ids_BT], dim=1)
        found = places(self._levels, self.vocabulary, all_BN.cpu().numpy())
        new = [place_BN[:, seen_BS.shape[1] :].reshape(-1) for place_BN in found]
        logits = torch.from_numpy(np.log(self._model.probabilities(new)).astype(np.float32))
        remembered_BS = all_BN[:, max(0, all_BN.shape[1] - self.context_length) :]
        return logits.view(*ids_BT.shape, -1).to(ids_BT.device), remembered_BS

    def _smooth(self) -> None:
        """Compute discounts and shares; a code must name a context that is there.

        Raises:
            ValueError: the buffers cannot be counts of a text.
        """
        levels, contexts = [], 1
        for n in range(1, self.order + 1):
            codes_G, counts_G = (
                self.get_buffer(f"{kind}_{n}").cpu().numpy() for kind in ("codes", "counts")
            )
            if codes_G.dtype != np.int64 or codes_G.shape != counts_G.shape or codes_G.ndim != 1:
                raise ValueError(f"codes_{n} and counts_{n} must be int64 vectors of one length")
            if not len(codes_G):
                break
            inside = codes_G[0] >= 0 and codes_G[-1] < contexts * self.vocabulary
            if not inside or (np.diff(codes_G) <= 0).any() or (counts_G < 0).any():
                raise ValueError(f"order {n} holds n-grams that cannot be")
            levels.append(Level(codes_G, counts_G))
            contexts = len(codes_G)
        if not levels:
            raise ValueError("no n-grams")
        self._levels, self._model = levels, self.smoothing(levels, self.vocabulary)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the buffers as they are, whatever their lengths; called by torch."""
        own = {prefix + name: name for name, _ in self.named_buffers()}
        missing = [key for key in own if key not in state_dict]
        missing_keys += missing
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in own]
        if missing:
            return
        for key, name in own.items():
            self.register_buffer(name, state_dict[key])
        try:
            self._smooth()
        except ValueError as error:
            error_msgs.append(str(error))
