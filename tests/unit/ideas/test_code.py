"""What a change of the code makes DVC measure again."""

import shutil

import pytest

from charlm.ideas import code
from tests.workspace import PROJECT


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the source, which can be edited."""
    shutil.copytree(PROJECT / "src", tmp_path / "src")
    shutil.copytree(PROJECT / "stages", tmp_path / "stages")
    package = tmp_path / "src/charlm"
    monkeypatch.setattr(code, "PACKAGE", package)
    monkeypatch.setattr(code, "IDEAS", package / "ideas")
    monkeypatch.setattr(code, "STAGE", tmp_path / "stages/idea.py")
    return package


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("training/trainer.py", {"sides", "combinations"}),
        ("models/base.py", {"sides", "combinations"}),
        ("data/batches.py", {"sides", "combinations"}),
        ("config/training.py", {"sides", "combinations"}),
        ("ideas/kinds.py", {"sides", "combinations"}),
        ("ideas/side.py", {"sides", "combinations"}),
        ("evaluation/loss.py", {"sides", "combinations"}),
        ("evaluation/dynamic.py", {"combinations"}),
        ("ideas/combination.py", {"combinations"}),
        ("models/lstm.py", {"models.lstm"}),
        ("models/gpt.py", set()),
        ("ideas/record.py", set()),
        ("report/page.py", set()),
    ],
)
def test_an_edit_changes_the_digest_of_what_contains_it(file, changed, package):
    def flat():
        found = code.digests(["lstm", "transformer"])
        return {**found, **{f"models.{name}": each for name, each in found["models"].items()}}

    before = flat()
    with (package / file).open("a") as edited:
        edited.write("# edited\n")
    after = flat()
    assert {key for key in before if key != "models" and before[key] != after[key]} == changed
    cached = package / "data/__pycache__"
    cached.mkdir(exist_ok=True)
    (cached / "encoding.cpython-311.pyc").write_bytes(b"what Python leaves")
    assert flat() == after
