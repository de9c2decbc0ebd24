"""The same bytes on one core and on two: threads are a parameter, never the number of cores."""

import os
import shutil
import subprocess

import pytest

from tests.workspace import environment, trainable

ZOO = ["lstm", "gpt"]


@pytest.mark.skipif(
    shutil.which("taskset") is None or (os.cpu_count() or 1) < 2, reason="needs taskset, two cores"
)
@pytest.mark.parametrize("threads", [1, 2])
def test_one_core_and_two_train_the_same_bytes(tmp_path, corpus_path, threads):
    folder = trainable(
        tmp_path / "project",
        ZOO,
        corpus_path,
        training__threads=threads,
        models__lstm__smoke__steps=20,
        models__gpt__smoke__steps=20,
        models__gpt__smoke__warmup=2,
    )
    variables = {k: v for k, v in environment().items() if not k.endswith("_NUM_THREADS")}
    found = []
    for cores in ("0", "0,1"):
        for name in ZOO:
            for stage in ("train", "evaluate"):
                command = ["taskset", "-c", cores, "python", "-m", f"stages.{stage}"]
                subprocess.run([*command, "--model", name], cwd=folder, env=variables, check=True)
        folders = (f"{kind}/{name}/*" for kind in ("models", "results") for name in ZOO)
        files = [file for names in folders for file in sorted(folder.glob(names))]
        files = [file for file in files if file.name != ".gitignore"]
        found.append({file.relative_to(folder): file.read_bytes() for file in files})
        shutil.rmtree(folder / "models")
        shutil.rmtree(folder / "results")
    one, two = found
    assert len(one) == len(ZOO) * 6
    assert one == two
