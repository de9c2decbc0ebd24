"""A disk that is really full: a small tmpfs, which only root may mount."""

import os
import subprocess
import sys

import pytest

from tests.workspace import copy_project, run
from tools.torture import STAGES, contents, trained

pytestmark = [
    pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture`"),
    pytest.mark.skipif(
        "not (sys.platform == 'linux' and os.geteuid() == 0)", reason="mounts a file system"
    ),
]
MEGABYTES = 200
COMMANDS = {
    "train": trained("bigram"),
    **{stage.split()[0]: (["-m", *f"stages.{stage}".split()], o) for stage, o in STAGES.items()},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus_path):
    """A small zoo that DVC ran, on a disk of its own."""
    disk = tmp_path_factory.mktemp("disk")
    size = f"size={MEGABYTES}m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk]).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        made = copy_project(
            disk / "charlm",
            ("bigram", "kneser_ney"),
            scale="smoke",
            checkpoint_every=0.001,
            corpus__sources=[str(corpus_path)],
        )
        (made / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
        run(made, "dvc", "repro")
        yield made
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("free", [0, 4096, 40_960])
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_full_disk_is_one_line_and_nothing_good_is_overwritten(folder, stage, free):
    command, outs = COMMANDS[stage]
    whole = contents(folder, outs)
    assert whole
    filler = folder.parent / "filler"
    with filler.open("wb") as file:
        space = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        file.write(bytes(space - free))
    try:
        done = run(folder, sys.executable, *command, check=False)
    finally:
        filler.unlink()
    assert "Traceback" not in done.stderr
    if done.returncode:
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
        assert "No space left on device" in line
    # Each file is the old one or the new one, and those are the same.
    assert contents(folder, outs) == whole
    run(folder, sys.executable, *command)
    assert contents(folder, outs) == whole


def test_dvc_goes_on_once_there_is_room(folder):
    outs = [out for _, of in COMMANDS.values() for out in of]
    whole = contents(folder, outs)
    filler = folder.parent / "filler"
    with filler.open("wb") as file:
        file.write(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize))
    try:
        assert run(folder, "dvc", "repro", "--force", check=False).returncode
    finally:
        filler.unlink()
    run(folder, "dvc", "repro")
    assert contents(folder, outs) == whole
