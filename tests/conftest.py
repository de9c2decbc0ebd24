from pathlib import Path

import pytest
import torch
from hypothesis import settings as hypothesis_settings

from charlm import corpus, params
from charlm.encoding import encode, read_text
from tests.workspace import PROJECT

# The same cases every time, and no time limit on a case: these machines are shared.
hypothesis_settings.register_profile("charlm", derandomize=True, deadline=None)
hypothesis_settings.load_profile("charlm")


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
    return read_text(corpus_path)


@pytest.fixture(scope="session")
def corpus_ids(corpus_text) -> dict[str, torch.Tensor]:
    """Ids of the real splits, uint8."""
    return {k: torch.tensor(v) for k, v in encode(corpus_text, 0.9, 0.05).splits.items()}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
