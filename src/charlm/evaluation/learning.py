"""What each character of an excerpt costs a model at each point of its loss curve."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from charlm.evaluation import loss
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel

CHARACTERS = 2000
"""Characters at the beginning of the holdout whose bits are kept."""


class Learning:
    """Keeps the bits of the first characters of a text, point after point.

    A training that was stopped meets its earlier points again, when its model is not what it was at
    them. So what was found is kept in a file until the end.

    Attributes:
        points: for each step the bits of the characters, streaming, rounded to a tenth.

    Args:
        ids_N: the character before the text, then the text, on the device of the model.
        file: where points are kept.
        resumed: whether the training goes on from a checkpoint; another one begins without points.
    """

    def __init__(self, ids_N: Tensor, file: Path, resumed: bool) -> None:
        self._ids_N, self._file = ids_N[: 1 + CHARACTERS], file
        kept = read_json(file) if resumed and file.is_file() else {}
        self.points: dict[int, list[float]] = {int(step): bits for step, bits in kept.items()}

    def see(self, model: LanguageModel, step: int) -> None:
        """Score the text with the model of a step, unless it was done before the training stopped.

        Args:
            model: in training or evaluation mode, in which it is left.
            step: of its training.
        """
        if step in self.points:
            return
        was_training = model.training
        model.eval()
        nats_N, _ = loss.streaming(model, self._ids_N)
        model.train(was_training)
        self.points[step] = [round(bits, 1) for bits in (nats_N / math.log(2)).tolist()]
        write_json(self._file, self.points)

    def content(self, steps: list[int]) -> dict[str, Any]:
        """Return what learning.json holds: `steps`, and `bits` of the characters at each.

        Args:
            steps: of the points of the loss curve.
        """
        return {"steps": steps, "bits": [self.points[step] for step in steps]}

    def remove(self) -> None:
        """Remove the file, once the results are written."""
        self._file.unlink(missing_ok=True)
