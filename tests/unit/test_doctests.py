import doctest
import importlib

import pytest

from tests.workspace import PROJECT

FILES = [path for path in sorted(PROJECT.glob("src/charlm/**/*.py")) if ">>> " in path.read_text()]
MODULES = [".".join(path.relative_to(PROJECT / "src").with_suffix("").parts) for path in FILES]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_right(module):
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.attempted
    assert not result.failed
