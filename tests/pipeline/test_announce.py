"""What `dvc repro` says at each stage."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from charlm.announce import TRAINS, announcement
from charlm.config import params
from tests.workspace import PROJECT, run

STAGES = YAML(typ="safe", pure=True).load(PROJECT / "dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in TRAINS])
def test_a_stage_says_what_it_does(stage):
    described = STAGES[stage].get("do", STAGES[stage])["desc"]
    assert announcement(stage, PROJECT) == described
    assert announcement(f"{stage}@lstm", PROJECT) == described


def test_a_training_says_its_budget(settings):
    for stage, names in (
        ("train", settings.models),
        ("reproduce", settings.reproductions),
        ("repeat", settings.repeats),
    ):
        described = STAGES[stage]["do"]["desc"]
        for name in names:
            training = settings.model(name).training
            said = announcement(f"{stage}@{name}", PROJECT)
            assert said.startswith(f"{described}; {training.steps:,} steps of ")
            assert re.search(r" \(as committed \d+ s, [^,]+, \d+ cores\)$", said)
            if training.batch is not None:
                assert f" of {training.batch:,} x {training.block:,} characters (" in said


def test_seconds_are_those_of_the_recorded_scale(tmp_path):
    for name in ("dvc.yaml", "params.yaml", "benchmarks/training_time.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("scale: quick", "scale: smoke"))
    assert params.load(path).scale == "smoke"
    assert announcement("train@bigram", tmp_path).endswith("characters")


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", "benchmarks/training_time.json"])
def test_what_is_wrong_is_left_to_the_stage(tmp_path, name):
    for each in {"dvc.yaml", "params.yaml", "benchmarks/training_time.json"} - {name}:
        (tmp_path / each).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / each, tmp_path / each)
    assert announcement("train@bigram", tmp_path) == ""
    assert announcement("train@nobody", PROJECT) == ""
    assert announcement("cook", PROJECT) == ""


def test_it_is_said_once_and_under_dvc_only():
    code = "import os, click\nfrom charlm.cli import one_line_errors\n"
    code += "inner = one_line_errors(lambda: None)\none_line_errors(inner)()\n"
    for before, expected in (("", 0), ("os.environ['DVC_STAGE'] = 'report'\n", 1)):
        at = code.replace("import os, click\n", f"import os, click\n{before}")
        said = run(Path(PROJECT), "python", "-c", at).stderr
        assert said.count("report: leaderboard and report.html") == expected
