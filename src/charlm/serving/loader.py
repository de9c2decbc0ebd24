"""What MLflow loads of a registered model, by `mlflow models serve` or `mlflow.pyfunc.load_model`.

MLflow keeps this package beside the weights and calls `_load_pyfunc`: a served model needs no
checkout, and nothing is pickled.
"""

import threading
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from charlm import saved_model
from charlm.config.params import Sampling, request
from charlm.errors import UserError
from charlm.models.base import start_torch
from charlm.sampling import Writer

LONGEST = 5_000
"""Characters that one call may ask for, prompts included: nobody can cancel a call."""


class Served:
    """Continues prompts as `charlm sample --samples 1` does.

    Args:
        folder: of a saved model.
        context: characters that are read again for each one drawn, as in params.yaml.
    """

    def __init__(self, folder: Path, context: int | str | None) -> None:
        self._writer = Writer(*saved_model.load(folder, start_torch()))
        self._context = context
        # A server calls from several threads: one call at a time, so that memory stays bounded.
        self._lock = threading.Lock()

    def predict(self, model_input: Any, params: dict[str, Any]) -> list[str]:
        """Return each prompt with its continuation.

        Args:
            model_input: a data frame with a column `prompt`.
            params: length, temperature, top_k, top_p and seed, complete.

        Raises:
            MlflowException: a value is impossible; MLflow's server answers 400 with the message.
        """
        fixed = {**params, "context": self._context, "samples": 1}
        try:
            requests = [request({**fixed, "prompt": prompt}) for prompt in model_input["prompt"]]
            characters = sum(len(one.prompt or "") + one.length for one in requests)
            if characters > LONGEST:
                raise UserError(
                    f"length: {characters:,} characters in one call, prompts included "
                    f"(at most {LONGEST:,})"
                )
            with self._lock:
                return [self._text(one) for one in requests]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _text(self, sampling: Sampling) -> str:
        try:
            return self._writer.texts(sampling)[0]
        except UserError as error:
            raise UserError(f"prompt: {error}") from None


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> Served:
    """Return the model in a folder; MLflow calls this."""
    return Served(Path(path), model_config["context"])
