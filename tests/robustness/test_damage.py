"""Files damaged, lost or not to be written: named in one line, and `dvc repro` repairs it."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import copy_project, run
from tools.torture import contents

pytestmark = pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture`")
OUTS = ["data/raw/corpus.txt", "data/encoded", "models/bigram", "results/bigram/curve.csv"]
TRAIN = (sys.executable, "-m", "stages.train", "--model", "bigram")
SAMPLE = (sys.executable, "-m", "stages.sample", "--model", "bigram")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus_path):
    """A bigram that DVC trained; each test has a copy, cache and all."""
    short = {"models__bigram__smoke__steps": 20, "models__bigram__smoke__validate_every": 10}
    own = {"scale": "smoke", "checkpoint_every": 0.001, "corpus__sources": [str(corpus_path)]}
    made = copy_project(tmp_path_factory.mktemp("damage"), ["bigram"], **own, **short)
    (made / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    run(made, "dvc", "repro", "train@bigram")
    return made


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def cached(folder, name):
    """Return where DVC's cache has a file."""
    content = (folder / name).read_bytes()
    files = (folder / ".dvc/cache/files/md5").glob("*/*")
    return next(file for file in files if file.read_bytes() == content)


def lost(file):
    file.unlink()


def truncated(file):
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file):
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGED = [
    ("models/bigram/weights.safetensors", SAMPLE),
    ("models/bigram/config.json", SAMPLE),
    ("data/encoded/train.npy", TRAIN),
]


@pytest.mark.parametrize("damage", [lost, truncated, flipped])
@pytest.mark.parametrize(("name", "command"), DAMAGED)
def test_a_damaged_output_is_named_and_comes_from_the_cache(folder, damage, name, command):
    if damage is flipped and name.endswith("config.json"):
        pytest.skip("what a model is called or was trained with has no digest")
    expected = contents(folder, OUTS)
    damage(folder / name)
    done = run(folder, *command, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {name} is ")
    assert done.stderr.count("\n") == 1
    ran = run(folder, "dvc", "repro", "train@bigram").stdout
    assert "Running stage" not in ran
    assert contents(folder, OUTS) == expected


@pytest.mark.parametrize("damage", [lost, truncated, flipped])
@pytest.mark.parametrize("name", ["models/bigram/weights.safetensors", "data/raw/corpus.txt"])
def test_what_the_cache_lost_is_made_again_and_is_the_same(folder, damage, name):
    expected = contents(folder, OUTS)
    damage(cached(folder, name))
    lost(folder / name)
    run(folder, "dvc", "checkout", "train@bigram" if "models" in name else "download", check=False)
    ran = run(folder, "dvc", "repro", "train@bigram").stdout
    assert f"Running stage '{'train@bigram' if 'models' in name else 'download'}'" in ran
    assert contents(folder, OUTS) == expected


@contextlib.contextmanager
def frozen(folder):
    """Let nobody write into a folder, root neither."""
    change = ["chattr", "+i", folder] if os.geteuid() == 0 else ["chmod", "a-w", folder]
    back = ["chattr", "-i", folder] if os.geteuid() == 0 else ["chmod", "u+w", folder]
    try:
        if subprocess.run(change, capture_output=True).returncode:
            pytest.skip("root can write everywhere and chattr does not work here")
    except FileNotFoundError:
        pytest.skip("root can write everywhere and there is no chattr")
    try:
        yield
    finally:
        subprocess.run(back, check=True)


@pytest.mark.parametrize(
    ("place", "stage"),
    [
        ("data/raw", "download"),
        ("data/encoded", "encode"),
        ("models/bigram", "train --model bigram"),
        ("results/bigram", "train --model bigram"),
        (".checkpoints", "train --model bigram"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_and_left_as_it_was(folder, place, stage):
    expected = contents(folder, OUTS)
    (folder / place).mkdir(exist_ok=True)
    command = (sys.executable, "-m", *f"stages.{stage}".split())
    with frozen(folder / place):
        done = run(folder, *command, check=False)
        assert done.returncode == 1
        said = [line for line in done.stderr.splitlines() if not line.startswith("warning: MLflow")]
        assert len(said) == 1, said
        assert said[0].startswith("Error: ")
        assert place in said[0]
        assert contents(folder, OUTS) == expected
    run(folder, *command)
    assert contents(folder, OUTS) == expected
