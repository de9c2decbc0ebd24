"""The same bytes on one core and on two: threads are a parameter, never the number of cores."""

import os
import shutil
import subprocess

import pytest

from tests.workspace import environment, trainable

THREADS = {"lstm": 2, "gpt": 1}


@pytest.mark.skipif(
    shutil.which("taskset") is None or (os.cpu_count() or 1) < 2, reason="needs taskset, two cores"
)
def test_one_core_and_two_train_the_same_bytes(tmp_path, corpus_path):
    changes = {f"models__{name}__smoke__steps": 20 for name in THREADS}
    changes |= {f"models__{name}__training__threads": count for name, count in THREADS.items()}
    changes |= {"models__gpt__smoke__warmup": 2, "corpus__path": str(tmp_path / "text")}
    (tmp_path / "text").write_bytes(corpus_path.read_bytes()[:100_000])
    folder = trainable(tmp_path / "project", list(THREADS), corpus_path, **changes)
    variables = {k: v for k, v in environment().items() if not k.endswith("_NUM_THREADS")}
    shutil.rmtree(folder / "results")  # those that git keeps
    found = []
    # One process for all, and none for MLflow: starting them takes longer than these trainings.
    code = "from charlm import tracking; off = tracking.Tracker('', None, on=False)\n"
    code += "tracking.Tracker = lambda *_, on: off\n"
    code += "from stages.train import main\n"
    code += "\n".join(f"main(['--model', '{n}'], standalone_mode=False)" for n in THREADS)
    for cores in ("0", "0,1"):
        command = ["taskset", "-c", cores, "python", "-c", code]
        subprocess.run(command, cwd=folder, env=variables, check=True)
        files = [
            file
            for kind in ("models", "results")
            for name in THREADS
            for file in sorted(folder.glob(f"{kind}/{name}/*"))
            if file.name != ".gitignore"
        ]
        found.append({file.relative_to(folder): file.read_bytes() for file in files})
        shutil.rmtree(folder / "models")
        shutil.rmtree(folder / "results")
    one, two = found
    assert len(one) == len(THREADS) * 5
    assert one == two
