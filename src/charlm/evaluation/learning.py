"""What the beginning of validation costs a model while it is trained."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charlm.evaluation import loss
from charlm.files import read_json, write_json
from charlm.models.base import LanguageModel

CHARACTERS = 2000
"""Characters of validation whose bits are kept."""

FURTHER = 1.4
"""Each point comes at least so many times as late as the one before: losses fall fast at first."""

MOST = 99.9
"""Cap on the bits of a character; stands for NaN too."""


class Learning:
    """Keeps the bits of the first characters of validation at some steps of a training.

    They are kept in a file beside the checkpoint. After a restart `see` is called again for earlier
    points, but with the later model: these calls are ignored.

    Attributes:
        points: for each step the bits of the characters, streaming, rounded to a tenth.
        seconds: that scoring took in this process.

    Args:
        ids_N: the character before validation, then validation, on the device of the model.
        file: where points are kept.
        resumed: step of the checkpoint that the training goes on from; 0 begins without points.
    """

    def __init__(self, ids_N: Tensor, file: Path, resumed: int) -> None:
        self._ids_N, self._file, self._resumed = ids_N[: 1 + CHARACTERS], file, resumed
        kept = read_json(file) if resumed and file.is_file() else {}
        self.points: dict[int, list[float]] = {int(step): bits for step, bits in kept.items()}
        self.seconds = 0.0

    def see(self, model: LanguageModel, step: int) -> None:
        """Score with the weights of a step, if it is far enough from the last point.

        Args:
            model: in training or evaluation mode, in which it is left.
            step: of its training.
        """
        past = step <= self._resumed and self._resumed
        if past or (self.points and step < FURTHER * max(*self.points, 1)):
            return
        started, was_training = time.perf_counter(), model.training
        model.eval()
        nats_N, _ = loss.streaming(model, self._ids_N)
        model.train(was_training)
        bits_N = torch.nan_to_num(nats_N / math.log(2), nan=MOST).clamp(max=MOST)
        self.points[step] = [round(bits, 1) for bits in bits_N.tolist()]
        write_json(self._file, self.points)
        self.seconds += time.perf_counter() - started

    @property
    def content(self) -> dict[str, Any]:
        """What learning.json holds: `steps`, and the `bits` of the characters at each."""
        return {"steps": [*self.points], "bits": [*self.points.values()]}

    def remove(self) -> None:
        """Remove the file, once the results are written."""
        self._file.unlink(missing_ok=True)
