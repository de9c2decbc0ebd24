"""metrics.json and dynamic.json name the weights that they are of, so that others are refused."""

from pathlib import Path
from typing import Any

from charlm.errors import UserError
from charlm.files import read_json, sha256, write_json

WEIGHTS = "weights_sha256"


def save(file: Path, content: dict[str, Any], model: Path) -> None:
    """Write results of a saved model, and the digest of its weights with them."""
    write_json(file, content | {WEIGHTS: weights_digest(model)})


def weights_digest(model: Path) -> str:
    """Return the SHA-256 of a model's weights, by which results and runs find it.

    Raises:
        UserError: there are none.
    """
    weights = model / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} is missing: run `dvc repro`")
    return sha256(weights)


def load(file: Path, model: Path) -> dict[str, Any]:
    """Read results of a saved model.

    Args:
        file: metrics.json or dynamic.json.
        model: folder of the model.

    Raises:
        UserError: the file is missing, damaged, or of other weights than the folder's.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: remove it and run `dvc repro`")
    if content.get(WEIGHTS) != weights_digest(model):
        stage = "ensemble" if (file.parent / "ensemble.json").is_file() else "evaluate"
        stage = "dynamic" if file.name == "dynamic.json" else stage
        raise UserError(
            f"{file} is of other weights than those in {model}: run `dvc repro`, or, to keep these "
            f"weights, `charlm {stage} --model {model.name}`"
        )
    return content


def validation_bits(file: Path, model: Path) -> float:
    """Return what a model is ranked by: bits per character of validation, streaming.

    Arguments and errors as of `load`, of metrics.json.
    """
    bits: float = load(file, model)["streaming"]["validation"]["bits_per_char"]
    return bits
