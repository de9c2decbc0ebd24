"""Text drawn one character at a time: one state-carrying loop for every model.

Shapes: B samples drawn side by side, T time, V vocabulary.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from charlm.errors import UserError
from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.config.params import Sampling
    from charlm.saved_model import Config

LONGEST_LINE = 60
"""Characters of a line that can be a prompt."""


def suited(prompt: str | None, text: str) -> str | None:
    """Return a prompt that suits a text: with a word that the text lacks, its commonest line.

    A model that was trained on recipes has nothing to say about Romeo.

    Args:
        prompt: to continue; None stays None.
        text: that models were trained on.

    >>> suited("ROMEO: tell me", "SALT: 3 g\\nto taste\\nSALT: 3 g\\n")
    'SALT: 3 g\\n'
    """
    if prompt is None or all(word in text for word in re.findall(r"\w+", prompt)):
        return prompt
    lines = Counter(line for line in text.split("\n") if line.strip())
    line, times = lines.most_common(1)[0] if lines else ("", 0)
    if times < 2 or len(line) > LONGEST_LINE:
        return None
    return f"{line}\n"


def restrict(
    logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Return the probabilities to draw from, B x V.

    The temperature divides the logits first; then only the `top_k` likeliest symbols stay, then
    only the fewest likeliest symbols that hold a probability of `top_p` together (the nucleus of
    Holtzman et al., 2020). Of equally likely symbols the one with the lower id comes first.

    Args:
        logits_BV: of the next character.
        temperature: 0 puts all probability on the likeliest symbol (greedy).
        top_k: at least 1, or None for all symbols.
        top_p: in (0, 1], or None for all symbols.
    """
    if temperature == 0:
        top_k, temperature = 1, 1.0
    # A tiny temperature must not overflow: the likeliest symbol's logit is made 0 first.
    logits_BV = logits_BV.double()
    logits_BV = (logits_BV - logits_BV.max(dim=-1, keepdim=True).values) / temperature
    probs_BV = torch.softmax(logits_BV, dim=-1)
    if top_k is None and top_p is None:
        return probs_BV
    probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        probs_BV[:, top_k:] = 0
    if top_p is not None:
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV[before_BV >= top_p * probs_BV.sum(-1, keepdim=True)] = 0
    probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
    return torch.zeros_like(probs_BV).scatter(-1, order_BV, probs_BV)


@torch.inference_mode()
def draw(
    model: LanguageModel,
    prompt_T: Tensor,
    length: int,
    samples: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context: int | None = None,
) -> Iterator[Tensor]:
    """Yield `length` times the next character of each sample, ids of shape B.

    The model reads the prompt once and then each drawn character once; its state remembers the
    rest, so a recurrent model's cost does not grow with what was written. With `context` nothing
    is remembered: the last so many characters are read again for each one drawn.

    Args:
        model: in evaluation mode.
        prompt_T: at least one id, on the model's device.
        length: characters to draw after the prompt.
        samples: number of samples, B, drawn independently from one generator.
        generator: a CPU generator, so that a seed means the same text on any device.
        temperature: as in `restrict`.
        top_k: as in `restrict`.
        top_p: as in `restrict`.
        context: characters to read again each time, at least 1; None carries the state.
    """
    inputs_BT = prompt_T.expand(samples, -1)
    if context is not None:
        inputs_BT = inputs_BT[:, -context:]
    state = None
    for _ in range(length):
        logits_BTV, state = model(inputs_BT, state if context is None else None)
        probs_BV = restrict(logits_BTV[:, -1].cpu(), temperature, top_k, top_p)
        ids_B = torch.multinomial(probs_BV, 1, generator=generator)[:, 0]
        yield ids_B
        drawn_B1 = ids_B[:, None].to(prompt_T.device)
        if context is None:
            inputs_BT = drawn_B1
        else:
            inputs_BT = torch.cat([inputs_BT, drawn_B1], dim=1)[:, -context:]


class Writer:
    """A saved model that writes, as the section `sampling` of params.yaml says.

    Args:
        model: in evaluation mode.
        config: of the saved model.
    """

    def __init__(self, model: LanguageModel, config: "Config") -> None:
        self._model, self._config = model, config
        self._vocabulary = config.vocabulary
        weights = [*model.parameters(), *model.buffers()]
        self._device = weights[0].device

    def spelt(self, sampling: "Sampling") -> "tuple[Sampling, str]":
        """Return the sampling with a prompt that the corpus can spell, and what was replaced.

        The first symbol of the vocabulary stands for a prompt with unknown characters; the message
        is empty if there are none.
        """
        first = self._vocabulary.symbols[0]
        try:
            self._vocabulary.encode(sampling.prompt or first)
        except UserError as error:
            message = (
                f"the prompt of params.yaml is replaced by the first symbol, {first!r}: {error}"
            )
            return sampling.model_copy(update={"prompt": first}), message
        return sampling, ""

    def texts(self, sampling: "Sampling") -> list[str]:
        """Return the drawn texts, each with its prompt.

        Raises:
            UserError: the prompt has a character that the corpus does not have.
        """
        prompt = sampling.prompt or self._vocabulary.symbols[0]
        columns = torch.stack(list(self._draw(sampling, prompt)), dim=1)
        return [prompt + self._vocabulary.decode(row) for row in columns.tolist()]

    def characters(self, sampling: "Sampling") -> Iterator[str]:
        """Yield the prompt, then each character of the first text as it is drawn.

        Raises:
            UserError: as in `texts`.
        """
        prompt = sampling.prompt or self._vocabulary.symbols[0]
        drawn = self._draw(sampling, prompt)
        yield prompt
        for ids_B in drawn:
            yield self._vocabulary.decode(ids_B[:1].tolist())

    def _draw(self, sampling: "Sampling", prompt: str) -> Iterator[Tensor]:
        prompt_T = torch.tensor(self._vocabulary.encode(prompt)).long().to(self._device)
        return draw_as(sampling, self._model, self._config.block, prompt_T)


def draw_as(
    sampling: "Sampling", model: LanguageModel, block: int, prompt_T: Tensor
) -> Iterator[Tensor]:
    """Draw as a section `sampling` says; yields as `draw` does.

    Args:
        sampling: the section.
        model: in evaluation mode.
        block: what `context: block` stands for, in characters.
        prompt_T: at least one id, on the model's device.
    """
    return draw(
        model,
        prompt_T,
        sampling.length,
        sampling.samples,
        torch.Generator().manual_seed(sampling.seed),
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        block if sampling.context == "block" else sampling.context,
    )
