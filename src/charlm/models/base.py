"""The one interface for every model.

Shapes: B batch (sequences), T time (characters), V vocabulary (symbols).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

State = Any
"""What a model remembers of the characters before: None, a tensor or nested tuples of tensors."""


class LanguageModel(nn.Module, ABC):
    """Maps characters to the logits of the character that follows each.

    Attributes:
        context_length: how many characters a prediction can depend on; None means all before it.
    """

    context_length: int | None

    @abstractmethod
    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict the character after each input.

        Args:
            ids_BT: integers in [0, V).
            state: what an earlier call returned; None starts afresh.

        Returns:
            logits_BTV, where logits[:, t] depends on ids[:, :t + 1] and the state alone, and the
            state after the last character.
        """

    @property
    def parameter_count(self) -> int:
        """Number of trained scalars."""
        return sum(parameter.numel() for parameter in self.parameters())


def detach(state: State) -> State:
    """Cut a state off the graph that made it, so that back-propagation through time ends here."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        return tuple(detach(part) for part in state)
    return state


def start_torch() -> torch.device:
    """Make torch deterministic and return the fastest device of this machine: cuda, mps or cpu."""
    # The same as use_deterministic_algorithms(True), which imports the compiler too (1 s).
    torch.set_deterministic_debug_mode("error")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
