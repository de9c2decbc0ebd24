"""Files of results name the weights that they are of: who reads one is told if they are others."""

from pathlib import Path
from typing import Any

from charlm.errors import UserError
from charlm.files import read_json, sha256, write_json

WEIGHTS = "weights_sha256"


def save(file: Path, content: dict[str, Any], model: Path) -> None:
    """Write results of a saved model, and the digest of its weights with them."""
    write_json(file, content | {WEIGHTS: sha256(model / "weights.safetensors")})


def load(file: Path, model: Path) -> dict[str, Any]:
    """Read results of a saved model.

    Args:
        file: metrics.json or dynamic.json.
        model: folder of the model.

    Raises:
        UserError: the file is missing, damaged, or of other weights than the folder's.
    """
    content: dict[str, Any] = read_json(file)
    if content.get(WEIGHTS) != sha256(model / "weights.safetensors"):
        raise UserError(
            f"{file} is of other weights than those in {model}: run `dvc repro`, or, to keep these "
            f"weights, `charlm evaluate --model {model.name}`"
        )
    return content


def validation_bits(file: Path, model: Path) -> float:
    """Return what a model is ranked by: bits per character of validation, streaming.

    Arguments and errors as of `load`, of metrics.json.
    """
    bits: float = load(file, model)["streaming"]["validation"]["bits_per_char"]
    return bits
