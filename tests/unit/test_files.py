"""Files that are whole or absent, whatever the disk does."""

import subprocess
import sys

import pytest

from charlm import files
from charlm.errors import UserError

FULL = """
import pathlib, resource, sys
from charlm.cli import one_line_errors
from charlm.files import write_bytes
import click

@click.command()
@click.argument("path", type=pathlib.Path)
@one_line_errors
def main(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    write_bytes(path, bytes(1_000_000))

main()
"""


def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    path = tmp_path / "weights"
    path.write_bytes(b"what was there")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"Error: {path} cannot be written (File too large)\n"
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["weights"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"what was there")

    def half() -> None:
        with files.writing(path) as file:
            file.write(b"half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_bytes() == b"what was there"
    assert [found.name for found in tmp_path.iterdir()] == ["weights"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UserError, match=r"models/lstm\.json cannot be written"):
        files.write_json(tmp_path / "models/lstm.json", {})


def test_a_digest_is_of_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected
