import gc
import os
from pathlib import Path

# Tests run in several processes: threads that fight for the same cores slow each other tenfold.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings as hypothesis_settings

from charlm.config import params
from charlm.data import corpus
from tests.workspace import PROJECT, encode_text

# Collection makes millions of objects and no garbage.
gc.disable()

# The same cases every time, and no time limit on a case: these machines are shared.
hypothesis_settings.register_profile("charlm", derandomize=True, deadline=None)
hypothesis_settings.load_profile("charlm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="run what `make torture` runs too")
    parser.addoption(
        "--services",
        action="store_true",
        help="run what needs servers and a browser: make services",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one."""
    long = [
        f"test_{name}.py"
        for name in ("pipeline", "changes", "tracking", "checkpoint", "distributed")
    ]
    rank = {name: place for place, name in enumerate(long)}
    items.sort(key=lambda item: rank.get(item.path.name, len(long)))


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def settings() -> params.Params:
    return params.load(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory, settings) -> Path:
    """The real text, from the pipeline's own download or from its sources."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    wanted = settings.corpus
    own = "data/raw/corpus.txt"
    corpus.fetch(path, corpus.NO_PATH, [own, *wanted.sources], wanted.bytes, wanted.sha256, PROJECT)
    return path


@pytest.fixture(scope="session")
def corpus_text(corpus_path) -> str:
    return corpus_path.read_bytes().decode()


@pytest.fixture(scope="session")
def corpus_ids(corpus_text, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Ids of the real splits, uint8."""
    splits = encode_text(corpus_text, tmp_path_factory.mktemp("encoded"))
    return {split: torch.tensor(ids) for split, ids in splits.items()}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
