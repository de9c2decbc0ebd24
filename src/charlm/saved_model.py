"""A saved model: weights.safetensors beside config.json. Nothing is pickled.

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
from charlm.config.params import check_sizes
from charlm.config.schema import Positive
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from charlm.files import read_json, write_bytes, write_json
from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.config.params import Run

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
DIGEST = "weights_sha256"
"""Key of the configuration that names the digest of the weights, so that a flipped bit is found."""


@dataclass(frozen=True, config={"extra": "forbid", "strict": True})
class Config:
    """All that a model is built from, and how it was trained.

    Attributes:
        model: architecture, a file of charlm.models.
        block: training window, in characters.
        text: train, or all: the whole text, so that nothing of it is unseen.
        symbols: the vocabulary's symbols, in order.
        architecture: keys of the file's `Architecture`.
        training: the training configuration that made the weights.
        seed: the seed that made them.
        code: digest of the architecture's code: what uses a saved model depends on its folder, and
            so on this code too.
    """

    model: str
    block: Positive
    text: Literal["train", "all"]
    symbols: Annotated[str, Field(min_length=1)]
    architecture: dict[str, Any]
    training: dict[str, Any]
    seed: int
    code: str

    @classmethod
    def of(cls, run: "Run", symbols: str) -> Self:
        """Return the configuration of a run of params.yaml, with the vocabulary's symbols."""
        return cls(
            model=run.model,
            block=run.training.block,
            text=run.text,
            symbols=symbols,
            architecture=run.architecture,
            training=run.training.model_dump(),
            seed=run.seed,
            code=code_digest(run.model),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the ids are of."""
        return Vocabulary(self.symbols)

    def build(self) -> LanguageModel:
        """Return the model with fresh weights, on the CPU."""
        return models.build(self.model, len(self.symbols), self.block, self.architecture)


def code_digest(model: str) -> str:
    """Return a digest of the code that an architecture is made of.

    That is its file, charlm.models.base and the package charlm.ngrams.
    """
    package = models.FOLDER.parent
    files = [models.FOLDER / f"{model}.py", models.FOLDER / "base.py"]
    digest = hashlib.sha256()
    for file in [*files, *sorted((package / "ngrams").glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def save(folder: Path, model: LanguageModel, config: Config) -> None:
    """Write weights and configuration with their digest, each atomically, the weights first."""
    # A copy of each: two names may share one tensor, which safetensors refuses.
    kept = torch.contiguous_format
    tensors = {k: t.detach().cpu().clone(memory_format=kept) for k, t in model.state_dict().items()}
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
    remedy = f"remove {folder} and run `dvc repro`"
    try:
        digest = content.pop(DIGEST)
        config = Config(**content)
        check_sizes([config.architecture, {"block": config.block}], str)
        model = config.build()
        Vocabulary(config.symbols)
    except (LookupError, ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{folder / CONFIG} is damaged ({_short(error)}): {remedy}") from None
    except (MemoryError, OverflowError, RuntimeError):
        raise UserError(f"{folder / CONFIG} is of a model that no memory holds: {remedy}") from None
    try:
        weights = (folder / WEIGHTS).read_bytes()
        model.load_state_dict(safetensors.torch.load(weights))
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing: {remedy}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged ({_short(error)}): {remedy}") from None
    except RuntimeError as error:
        reason = f"does not fit {CONFIG} ({_short(error)})"
        raise UserError(f"{folder / WEIGHTS} {reason}: {remedy}") from None
    if hashlib.sha256(weights).hexdigest() != digest:
        raise UserError(
            f"{folder / WEIGHTS} is damaged (its SHA-256 is not the one in {CONFIG}): {remedy}"
        )
    return model.to(device).eval(), config


def _short(error: Exception) -> str:
    """Return an error's text in one line; a damaged file may be quoted in it at any length."""
    return " ".join(str(error).split())[:200]
