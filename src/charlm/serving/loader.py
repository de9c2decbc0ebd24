"""A model that MLflow serves, by `mlflow models serve` or `mlflow.pyfunc.load_model`.

MLflow keeps this package beside the weights and calls `_load_pyfunc`: a served model needs no
checkout, and nothing is pickled.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from mlflow.exceptions import MlflowException

from charlm import sampling, saved_model
from charlm.config.params import Request, request
from charlm.errors import UserError
from charlm.models.base import start_torch

LONGEST = 5_000
"""Characters that one call may ask for, prompts included: nobody can cancel a call."""


class Writer:
    """Goes on from prompts as `python -m stages.sample --samples 1` does.

    Args:
        folder: what `saved_model.save` wrote.
        context: characters that are read again for each one drawn, as in params.yaml.
    """

    def __init__(self, folder: Path, context: int | str | None) -> None:
        self._device = start_torch()
        self._model, self._config = saved_model.load(folder, self._device)
        self._context = context
        # A server calls from several threads, but torch has one number of threads for all of them.
        self._lock = threading.Lock()

    def predict(self, model_input: Any, params: dict[str, Any]) -> list[str]:
        """Return each prompt with what follows it.

        Args:
            model_input: a data frame with a column `prompt`.
            params: length, temperature, top_k, top_p and seed, complete.

        Raises:
            MlflowException: a value is impossible; MLflow's server answers 400 with the message.
        """
        fixed = {**params, "context": self._context, "samples": 1}
        try:
            asked = [request({**fixed, "prompt": prompt}) for prompt in model_input["prompt"]]
            characters = sum(len(one.prompt or "") + one.length for one in asked)
            if characters > LONGEST:
                raise UserError(
                    f"length: {characters:,} characters in one call, prompts included "
                    f"(at most {LONGEST:,})"
                )
            with self._lock:
                return [self._write(one) for one in asked]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _write(self, asked: Request) -> str:
        vocabulary = self._config.vocabulary
        prompt = asked.prompt or vocabulary.symbols[0]
        try:
            prompt_T = torch.tensor(vocabulary.encode(prompt)).long().to(self._device)
        except UserError as error:
            raise UserError(f"prompt: {error}") from None
        drawn = sampling.draw_as(asked, self._model, self._config.block, prompt_T, asked.seed)
        return prompt + vocabulary.decode(torch.cat(list(drawn)).tolist())


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> Writer:
    """Return the model in a folder; MLflow calls this."""
    return Writer(Path(path), model_config["context"])
