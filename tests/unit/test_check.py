from types import SimpleNamespace

import psutil
import pytest

from charlm import check
from charlm.errors import UserError
from tests.workspace import at_scale

QUICK = at_scale("quick")
LENGTHS = {"train": 360_000, "validation": 20_000, "test": 20_000}


def test_what_does_not_fit_is_refused_before_anything_runs(monkeypatch, tmp_path):
    """A text of 400,000 characters with 4,000 symbols, and 8 GiB."""
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 4000)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 << 30))
    with pytest.raises(UserError) as refused:
        check.check_memory(QUICK, LENGTHS, symbols)
    line = str(refused.value)
    assert line.startswith("perceptron_full_batch needs at least ")
    assert "(ngram_lstm, perceptron_full_batch_all do not fit either)" in line
    assert line.endswith(
        "or leave out: -S '~runs.perceptron_full_batch' -S '~runs.ngram_lstm' "
        "-S '~runs.perceptron_full_batch_all' -S '~ensembles.mixture' -S '~dynamic.mixture'"
    )
    own = tmp_path / "own.txt"
    own.write_text(symbols * 100, encoding="utf-8")
    with pytest.raises(UserError, match="perceptron_full_batch needs at least"):
        check.check_own_text(QUICK, own)


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    check.check_memory(QUICK, LENGTHS, "".join(map(chr, range(0x4E00, 0x4E00 + 4000))))


def test_what_an_ensemble_needs_is_said_with_its_name(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    only = QUICK.model_copy(update={"runs": {}})
    expected = (
        "mixture needs 10,400,000 bytes for what its members say at 40,000 characters of 65 "
        "symbols, but 1,048,576 are available: use a shorter holdout, or leave out: "
        r"-S '~ensembles\.mixture' -S '~dynamic\.mixture'$"
    )
    with pytest.raises(UserError, match=expected):
        check.check_memory(only, LENGTHS, "".join(map(chr, range(32, 97))))
