"""What `charlm pull` refuses; tests/services/test_remotes.py pulls from a server."""

import pytest

from charlm.errors import UserError
from charlm.pull import default_address, incomplete, named


def test_a_folder_is_taken_relative_to_here(tmp_path, monkeypatch):
    (tmp_path / "public").mkdir()
    monkeypatch.chdir(tmp_path)
    config = named("public")
    assert config["remote"]["named"]["url"] == str(tmp_path / "public")
    assert default_address(config) == str(tmp_path / "public")


@pytest.mark.parametrize(
    ("remote", "expected"),
    [("nowhere", "there is no such folder"), ("http://127.0.0.1:1/x", "does not answer")],
)
def test_what_is_not_there_is_one_line(remote, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected):
        named(remote)


def test_without_a_remote_it_says_how_to_name_one():
    with pytest.raises(UserError, match="make pull REMOTE="):
        default_address({"core": {}, "remote": {}})
    assert "dvc.lock" in incomplete("s3://b")
