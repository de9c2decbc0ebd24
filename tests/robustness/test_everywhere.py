"""The same bytes wherever and under whatever settings a stage runs."""

import os
import subprocess
import sys

import pytest

from tests.workspace import trainable

STAGES = ("train", "evaluate", "sample")
PLACES = {
    "plain": {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    # No UTF-8 locale, half-hour zone, another order of sets, files for the owner alone.
    "ein Ort, größer als ein Byte": {"LC_ALL": "C", "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "77"},
}


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_bytes_do_not_depend_on_place_locale_zone_umask_or_hash_seed(
    tmp_path, corpus_path, pytestconfig
):
    if not pytestconfig.getoption("torture"):
        pytest.skip("40 s: `make torture` runs it")
    found = []
    for place, surroundings in PLACES.items():
        folder = trainable(tmp_path / place, ["gru"], corpus_path)
        environment = {**os.environ, **surroundings, "PYTHONUTF8": "0"}
        for stage in STAGES:
            command = [sys.executable, "-m", f"stages.{stage}", "--model", "gru"]
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                umask=0o022 if place == "plain" else 0o077,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        made = sorted(
            path for part in ("models", "results") for path in (folder / part / "gru").iterdir()
        )
        found.append({path.name: path.read_bytes() for path in made})
    first, second = found
    assert len(first) >= 6
    assert first == second
