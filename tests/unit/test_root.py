"""Which folder is the project's."""

import pytest

from charlm.errors import UserError
from charlm.files import project_root


@pytest.fixture(autouse=True)
def _no_dvc(monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)


def project(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").touch()
    (folder / "dvc.yaml").touch()
    return folder


def test_it_is_the_nearest_with_parameters_and_a_graph(tmp_path, monkeypatch):
    root = project(tmp_path / "charlm")
    (root / "src/deep").mkdir(parents=True)
    monkeypatch.chdir(root / "src/deep")
    assert project_root() == root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run this inside the project"):
        project_root()


@pytest.mark.parametrize("inside", [".", "models/charlm"])
def test_dvc_may_have_its_root_above(inside, tmp_path, monkeypatch):
    """A stage, a command of the user and a queued copy all mean one folder."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    root = project(tmp_path / inside)
    monkeypatch.chdir(root)
    assert project_root() == root
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert project_root() == root
    copied = tmp_path / ".dvc/tmp/exps/tmp123"
    (copied / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(project(copied / inside))
    assert project_root() == root


def test_the_variable_of_another_repository_means_nothing(tmp_path, monkeypatch):
    root = project(tmp_path / "charlm")
    (root / ".dvc").mkdir()
    (tmp_path / "other/.dvc").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "other"))
    monkeypatch.chdir(root)
    assert project_root() == root
