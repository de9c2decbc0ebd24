"""A trained model in Python: what it writes, and what it thinks of any text.

Nothing but the model's folder is read: no params.yaml, no corpus.

Shapes: N characters, V vocabulary.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm import saved_model
from charlm.config import messages, params
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.evaluation import loss
from charlm.models.base import LanguageModel
from charlm.sampling import Writer

MODELS = "models"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bits:
    """What each character of a text costs a model: -log2 of the probability it gave.

    >>> bits = Bits("No", np.array([5.0, 1.0]))
    >>> bits.per_character, bits.per_byte, bits.total
    (3.0, 3.0, 6.0)
    >>> list(bits)
    [('N', 5.0), ('o', 1.0)]
    >>> float(np.asarray(bits).max())
    5.0

    Attributes:
        text: N characters.
        each: bits of each character, N.
    """

    text: str
    each: Floats

    @property
    def total(self) -> float:
        """The sum: a coder needs so many bits for the text, if it has the model."""
        return math.fsum(self.each.tolist())

    @property
    def per_character(self) -> float:
        """The mean over characters; 0 of no text."""
        return self.total / max(1, len(self.text))

    @property
    def per_byte(self) -> float:
        """The total divided by the length of the text in UTF-8; 0 of no text."""
        return self.total / max(1, len(self.text.encode()))

    def __len__(self) -> int:
        return len(self.text)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.text, self.each.tolist(), strict=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.each, dtype=dtype)


class TrainedModel:
    """A saved model: `charlm.load` returns one.

    Args:
        name: of the model, for messages.
        model: in evaluation mode.
        config: what it was built from.

    Attributes:
        name: of the model.
        vocabulary: the symbols that it knows.
        parameters: number of its weights and counts.
        context: characters that a prediction can depend on; None means all.
    """

    def __init__(self, name: str, model: LanguageModel, config: saved_model.Config) -> None:
        self.name = name
        self.vocabulary: Vocabulary = config.vocabulary
        self.parameters: int = model.parameter_count
        self.context: int | None = model.context_length
        self._model, self._writer = model, Writer(model, config)
        self._device = next(iter(model.state_dict().values())).device
        # A text is predicted as if a line began before it.
        line_end = self.vocabulary.symbols.find("\n")
        self._before = max(0, line_end)

    def __repr__(self) -> str:
        context = "all" if self.context is None else f"{self.context:,} characters"
        return (
            f"<{self.name}: {self.parameters:,} parameters, {len(self.vocabulary):,} symbols, "
            f"context {context}>"
        )

    def sample(
        self,
        prompt: str = "",
        length: int = 500,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1,
    ) -> str:
        """Return the prompt, and what the model writes after it.

        Args:
            prompt: to continue; nothing stands for the vocabulary's first symbol.
            length: characters to draw.
            temperature: 0 takes the likeliest symbol each time; below 1 is safer, above 1 wilder.
            top_k: draw among so many likeliest symbols only.
            top_p: draw among the likeliest symbols of this total probability only.
            seed: the same seed gives the same text.

        Raises:
            UserError: a value is impossible, or the model does not know a symbol of the prompt.
        """
        values = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        fixed = {"prompt": prompt or None, "context": None, "samples": 1, "seed": seed}
        return self._writer.texts(params.request({**values, **fixed}))[0]

    def bits(self, text: str, advance: Callable[[int], object] = lambda characters: None) -> Bits:
        """Return what each character of a text costs, given those before it.

        Args:
            text: any length.
            advance: called with the number of characters just scored.

        Raises:
            UserError: the model does not know a symbol of the text.
        """
        ids = self._ids(text)
        if not text:
            return Bits(text, np.empty(0))
        nats_N, _ = loss.streaming(self._model, ids, advance)
        return Bits(text, nats_N.numpy() / math.log(2))

    def next(self, text: str = "") -> dict[str, float]:
        """Return the probability of every symbol after a text, the likeliest first.

        Raises:
            UserError: the model does not know a symbol of the text.
        """
        state = None
        with torch.inference_mode():
            for ids_T in self._ids(text).split(loss.CHARACTERS_PER_PASS):
                logits_BTV, state = self._model(ids_T[None], state)
        p_V = logits_BTV[0, -1].double().softmax(dim=-1).cpu()
        order_V = p_V.argsort(descending=True, stable=True).tolist()
        return {self.vocabulary.symbols[symbol]: float(p_V[symbol]) for symbol in order_V}

    def unknown(self, text: str) -> dict[str, int]:
        """Return how often each symbol occurs in a text that the model does not know."""
        known = set(self.vocabulary.symbols)
        return dict(Counter(symbol for symbol in text if symbol not in known))

    def _ids(self, text: str) -> torch.Tensor:
        ids = np.concatenate([[self._before], self.vocabulary.encode(text)])
        return torch.from_numpy(ids.astype(np.int64)).to(self._device)


def load(model: str | Path, device: str = "cpu") -> TrainedModel:
    """Return a trained model; `charlm.load` is this, and says what its arguments are."""
    folder = _folder(model)
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"device: 'cpu' or 'cuda', not {device!r}") from None
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device: 'cpu' or 'cuda', not {device!r}")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: there is no {device!r} here: take 'cpu'")
    return TrainedModel(folder.name, *saved_model.load(folder, place))


def _folder(model: str | Path) -> Path:
    """Return the folder of a model.

    Raises:
        UserError: there is none.
    """
    if (Path(model) / saved_model.CONFIG).is_file():
        return Path(model)
    here = Path.cwd()
    projects = (here, *here.parents)
    for project in projects:
        if (project / MODELS / model / saved_model.CONFIG).is_file():
            return project / MODELS / model
    found = (sorted(project.glob(f"{MODELS}/*/{saved_model.CONFIG}")) for project in projects)
    names = next(([file.parent.name for file in files] for files in found if files), [])
    if not names:
        raise UserError(f"no trained models in {here} or above: run `dvc repro`, or give a path")
    raise UserError(messages.unknown("model", str(model), names))
