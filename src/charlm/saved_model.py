"""A trained model on disk: weights.safetensors beside config.json. Nothing is pickled.

config.json alone says how to build the model, so a folder can be copied anywhere and used.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import safetensors.torch
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError

from charlm import models
from charlm.config import params
from charlm.config.schema import Positive
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import read_json, write_bytes, write_json
from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.config.params import Seeds, Trained

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
DIGEST = "weights_sha256"
"""Key of the configuration that names the digest of the weights, so that a flipped bit is found."""


@dataclass(frozen=True, config={"extra": "forbid", "strict": True})
class Config:
    """All that a model is built from, and how it was trained.

    Attributes:
        model: architecture, a file of charlm.models.
        block: training window, in characters.
        trained_on: train, or all: the whole text, so that nothing of it is unseen.
        symbols: the vocabulary's symbols, in order.
        architecture: keys of the file's `Architecture`.
        training: the budget that made the weights.
        seeds: the seeds that made them.
    """

    model: str
    block: Positive
    trained_on: Literal["train", "all"]
    symbols: Annotated[str, Field(min_length=1)]
    architecture: dict[str, Any]
    training: dict[str, Any]
    seeds: dict[str, int]

    @classmethod
    def of(cls, entry: "Trained", symbols: str, seeds: "Seeds") -> Self:
        """Return the configuration of a model that is trained by steps.

        Args:
            entry: of params.yaml.
            symbols: the vocabulary's.
            seeds: of params.yaml.
        """
        return cls(
            model=entry.model,
            block=entry.training.block,
            trained_on=entry.trained_on,
            symbols=symbols,
            architecture=entry.architecture,
            training=entry.training.model_dump(),
            seeds=seeds.model_dump(include={"initialisation", "training"}),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the ids are of."""
        return Vocabulary(self.symbols)

    def build(self) -> LanguageModel:
        """Return the model with fresh weights, on the CPU."""
        return models.build(self.model, len(self.symbols), self.block, self.architecture)


def save(folder: Path, model: LanguageModel, config: Config) -> None:
    """Write weights and configuration with their digest, each atomically, the weights first."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    write_bytes(folder / WEIGHTS, content)
    digest = {DIGEST: hashlib.sha256(content).hexdigest()}
    write_json(folder / CONFIG, asdict(config) | digest)


def load(folder: Path, device: torch.device) -> tuple[LanguageModel, Config]:
    """Read what `save` wrote; the model is in evaluation mode.

    Raises:
        UserError: a file is missing, damaged or does not fit the other.
    """
    content = read_json(folder / CONFIG)
    mend = f"remove {folder} and run `dvc repro`"
    try:
        digest = content.pop(DIGEST)
        config = Config(**content)
        params.check_sizes([config.architecture, {"block": config.block}], str)
        model = config.build()
        Vocabulary(config.symbols)
    except (LookupError, ValueError, TypeError, AttributeError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / CONFIG} is damaged ({reason}): {mend}") from None
    except (MemoryError, OverflowError, RuntimeError):
        raise UserError(f"{folder / CONFIG} is of a model that no memory holds: {mend}") from None
    try:
        weights = (folder / WEIGHTS).read_bytes()
        model.load_state_dict(safetensors.torch.load(weights))
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing: {mend}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged ({error}): {mend}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG} ({reason}): {mend}") from None
    if hashlib.sha256(weights).hexdigest() != digest:
        raise UserError(
            f"{folder / WEIGHTS} is damaged (its SHA-256 is not the one in {CONFIG}): {mend}"
        )
    return model.to(device).eval(), config
