"""What `make gpu` does on a GPU, at scale smoke on a CPU."""

import json
import subprocess
import sys

import pytest

from tests.workspace import copy_project, environment, run

pytestmark = pytest.mark.skipif("not config.getoption('--torture')", reason="`make torture`")

ZOO = ["lstm", "ngram_lstm", "mixture", "gpt", "lmnet", "rnn", "lstm_output_gate"]
RECORDS = ("race_gpu.json", "gpu.json", "kills_gpu.json", "lowest_gpu.json", "published.json")


def test_it_goes_on_until_all_is_recorded(tmp_path, corpus_path):
    text = corpus_path.read_text()[:60_000]
    (tmp_path / "small.txt").write_text(text)
    own = str(tmp_path / "small.txt")
    folder = copy_project(tmp_path / "charlm", ZOO, scale="smoke", corpus__path=own)
    for stage in ("download", "encode"):
        run(folder, "python", "-m", f"stages.{stage}")
    records = tmp_path / "records"
    records.mkdir()
    known = {"BENCHMARK_SCALE": "smoke", "BENCHMARK_RECORDS": str(records), "OMP_NUM_THREADS": "1"}
    said = []
    for minutes in ("1", "30"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.on_gpu", "--minutes", minutes],
            cwd=folder,
            env=environment() | known | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout.splitlines()[-1])
    assert said[0].startswith("left: ")
    assert said[1] == "all is recorded"
    found = {name: json.loads((records / name).read_text()) for name in RECORDS}
    assert found["kills_gpu.json"]["same_bytes"]
    assert all(row["same_weights"] for row in found["gpu.json"]["machines"][0]["entries"].values())
    assert len(found["lowest_gpu.json"]["results"]) == 3
    assert set(found["published.json"]["runs"]) == {
        "published_lmnet",
        "published_rnn",
        "published_lstm_scratch",
    }


def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.on_gpu"],
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "make gpu needs a CUDA device; none was found"
