"""charlm: character-level language models, compared in bits per character."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charlm.trained_model import TrainedModel

__all__ = ["load"]


def load(model: str | Path, device: str = "cpu") -> "TrainedModel":
    """Return a trained model, to sample from and to score text with.

    Args:
        model: a name in models/ of this project (this folder or one above it), or the path of a
            model's folder anywhere.
        device: where it computes, "cpu" or "cuda".

    Raises:
        UserError: there is no such model, or its files are damaged.
    """
    # Every stage imports this package, and torch takes a second.
    from charlm import trained_model

    return trained_model.load(model, device)
