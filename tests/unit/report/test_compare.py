"""Two revisions side by side, with revisions that are read as `read` gives them."""

import json
import math
import subprocess

import pytest
from click.testing import CliRunner

from charlm.errors import UserError
from charlm.report import compare


def revision(name, steps, bits, report="<h1>all</h1>"):
    rows = [
        {
            "model": model,
            "streaming": {
                split: {"bits_per_char": value} for split in ("validation", "test", "holdout")
            },
        }
        for model, value in bits.items()
    ]
    curves = [
        {"model": model, "characters": c, "bits_per_char": value + 1 / c}
        for model, value in bits.items()
        for c in (10.0, 20.0)
    ]
    params = {"scale": "quick", "models": {"gpt": {"quick": {"steps": steps}}}}
    return compare.Revision(name, params, rows, curves if report else [], report)


BEFORE = revision("main", 2000, {"gpt": 2.5, "lstm": 2.0, "rnn": 3.0})
NOW = revision("lower-<uvea>", 4000, {"gpt": 2.25, "lstm": 2.0, "gru": 3.5})


def test_what_differs_is_named_and_what_does_not_is_not():
    assert compare.as_text(BEFORE, NOW) == [
        "models.gpt.quick.steps: 2000 -> 4000",
        "gpt: validation 2.5000 -> 2.2500 bits per character (-0.2500)",
        "rnn: validation 3.0000 -> - bits per character",
        "gru: validation - -> 3.5000 bits per character",
    ]
    assert compare.as_text(BEFORE, BEFORE) == ["nothing differs"]


def test_a_parameter_that_came_or_went_is_shown():
    found = compare.changed_parameters({"a": {"b": 1}, "c": [1]}, {"c": [1, 2], "d": None})
    assert list(found) == [("a", {"b": 1}, None), ("c", [1], [1, 2])]


def test_the_page_has_both_reports_and_escapes_names():
    html = compare.as_html(BEFORE, NOW)
    assert html.count("<iframe") == 2
    assert 'srcdoc="&lt;h1&gt;all&lt;/h1&gt;"' in html
    assert "lower-&lt;uvea&gt;" in html
    assert "<uvea>" not in html
    assert '<td class="better">-0.2500</td>' in html
    assert "<svg" in html
    assert ">lstm<" not in html
    without = compare.as_html(revision("old", 1, {"gpt": math.pi}, report=""), BEFORE)
    assert "Not in the cache here" in without


def test_a_revision_of_no_project_or_without_results_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"workspace has no params\.yaml: run `dvc repro`"):
        compare.read("workspace")
    (tmp_path / "params.yaml").write_text("scale: quick")
    with pytest.raises(UserError, match=r"workspace has no reports/leaderboard\.json"):
        compare.read("workspace")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/leaderboard.json").write_text(json.dumps(BEFORE.rows))
    assert compare.read("workspace").rows == BEFORE.rows
    done = CliRunner().invoke(compare.main, ["workspace"])
    assert done.exit_code == 0, done.output
    assert "nothing differs" in done.output
    assert (tmp_path / "reports/compare.html").is_file()


def commit(root, dvc):
    """Commit all of `root` to a new git repository; DVC is initialised in its folder `dvc`."""
    (root / dvc / ".dvc").mkdir(exist_ok=True)
    (root / dvc / ".dvc/config").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A", "-f"], [*who, "commit", "-q", "-m", "results"]):
        subprocess.run(["git", *command], cwd=root, check=True)


@pytest.mark.parametrize("dvc", [".", "sub", "sub/project"])
def test_a_project_may_be_a_subfolder_of_its_git_repository(dvc, tmp_path, monkeypatch):
    project = tmp_path / "sub/project"
    (project / "reports").mkdir(parents=True)
    (project / "params.yaml").write_text("scale: quick")
    (project / "reports/leaderboard.json").write_text(json.dumps(BEFORE.rows))
    commit(tmp_path, dvc)
    monkeypatch.chdir(project)
    (project / "params.yaml").write_text("scale: full")
    found = compare.read("HEAD")
    assert (found.params, found.rows, found.report) == ({"scale": "quick"}, BEFORE.rows, "")
    assert compare.read("workspace").params == {"scale": "full"}
    with pytest.raises(UserError, match="nowhere: unknown Git revision"):
        compare.read("nowhere")


def test_an_experiment_ends_with_what_it_changed(tmp_path, monkeypatch):
    for key in ("DVC_EXP_BASELINE_REV", "GIT_DIR"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    now = {"a": 2.0, "b": 3.0, "new": 1.0}
    assert compare.since_baseline(now) == []  # no repository
    before = {"a": 2.00001, "b": 3.25, "gone": 4.0}
    commit(tmp_path, ".")
    assert compare.since_baseline(now) == []  # nothing was ever measured
    path = tmp_path / compare.LOSSES
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(before))
    commit(tmp_path, ".")
    expected = [
        "b: validation 3.2500 -> 3.0000 bits per character (-0.2500)",
        "new: validation - -> 1.0000 bits per character",
        "gone: validation 4.0000 -> - bits per character",
    ]
    assert compare.since_baseline(now) == expected
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "nonsense")
    assert compare.since_baseline(now) == []
