"""`charlm ideas` in a copy of the project, with three small sides."""

import json
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from charlm.report import ideas as shown
from charlm.tracking import connect
from tests.workspace import PROJECT, environment, invoke, run, trainable
from tools import ideas_page

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn

FIELDS = {"family": "learning", "title": "A title", "source": "Somebody 2000"}
STEPS = {"steps": 40, "validate_every": 20, "validation_characters": 512}
IDEAS = {
    "start": FIELDS | {"change": {"entry": "bigram", **STEPS, "learning_rate": 0.003}},
    "momentum": FIELDS | {"base": "start", "change": {"optimizer": "sgd", "learning_rate": 0.3}},
    "both": FIELDS | {"base": "start", "ensemble": ["start", "start"]},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, corpus_path):
    """A copy whose text is encoded, and whose side `momentum` takes long enough to be stopped."""
    folder = trainable(tmp_path_factory.mktemp("ideas") / "charlm", ["bigram"], corpus_path)
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    text = (folder / "data/raw/corpus.txt").read_text()[:60_000]
    (folder / "small.txt").write_text(text)
    content = YAML(typ="safe").load(folder / "params.yaml")
    content["corpus"] |= {"path": "small.txt"}
    write(folder / "params.yaml", content)
    for stage in ("download", "encode"):
        assert invoke(folder, f"stages.{stage}").exit_code == 0
    (folder / "ideas/dvc.lock").unlink(missing_ok=True)
    (folder / "benchmarks/ideas.json").unlink(missing_ok=True)
    write(folder / "ideas/ideas.yaml", {"ladders": {}, "ideas": IDEAS})
    return folder


def write(file, content):
    with file.open("w") as output:
        YAML().dump(content, output)


def test_it_is_stopped_goes_on_and_says_what_each_gains(project):
    begun = subprocess.Popen(
        [sys.executable, "-m", "charlm", "ideas", "--seeds", "2"],
        cwd=project,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not list((project / "ideas/.finished").glob("idea-momentum-*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun.send_signal(signal.SIGINT)
    output, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130, output
    assert "Traceback" not in output
    # Models that an ensemble needs are outputs, which DVC removes before it goes on.
    runs_done = (project / "ideas/.finished").glob("idea-momentum-*.json")
    finished = {file: file.stat().st_mtime_ns for file in runs_done}
    done = run(project, "charlm", "ideas", "--seeds", "2")
    assert "A title" in done.stdout
    assert "verdict" in done.stdout
    # What was done before was not done again.
    assert all(file.stat().st_mtime_ns == moment for file, moment in finished.items())
    again = invoke(project, "charlm.ideas.command", "--seeds", "2")
    assert "up to date" in again.stderr
    assert again.stdout == done.stdout

    record = json.loads((project / "benchmarks/ideas.json").read_text())["ideas"]
    assert list(record) == list(IDEAS)
    assert record["start"]["gain"] is None
    for name in ("momentum", "both"):
        assert record[name]["seeds"] == [1, 2]
        assert len(record[name]["gain"]["each"]) == 2
        assert record[name]["machine"]
    assert record["both"]["parameters"] == 2 * record["start"]["parameters"]
    assert "evaluate@bigram" in record["momentum"]["override"]

    client, experiment = connect("tinyshakespeare-ideas", project)
    runs = client.search_runs([experiment])
    parents = [each for each in runs if "idea.parent" in each.data.tags]
    assert len(parents) == 1
    names = {each.info.run_name for each in runs} - {"charlm ideas"}
    assert names == {f"{name} seed {seed}" for name in IDEAS for seed in (1, 2)}
    # The report has them, for this text alone.
    digest = record["start"]["corpus"]
    found = shown.load(project / "benchmarks/ideas.json", digest)
    assert found is not None
    assert len(shown.section(found)["rows"]) == 2
    assert shown.load(project / "benchmarks/ideas.json", "another text") is None


def test_one_at_a_time(project):
    (project / "ideas/.dvc/tmp").mkdir(parents=True, exist_ok=True)
    with FileLock(project / "ideas/.dvc/tmp/charlm-ideas.lock"):
        before = (project / "ideas/params.json").read_bytes()
        done = run(project, "charlm", "ideas", "--seeds", "9", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ideas are being measured in this folder already")
    assert (project / "ideas/params.json").read_bytes() == before


def test_a_mistake_is_one_line_before_anything_runs(project):
    done = run(project, "charlm", "ideas", "momentun", check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: unknown idea 'momentun' (did you mean 'momentum'?)\n"


def test_the_page_of_ideas_has_the_recorded_figures():
    record = json.loads((PROJECT / "benchmarks/ideas.json").read_text())
    page = (PROJECT / "docs/ideas.md").read_text()
    assert page.split(ideas_page.MARK)[1] == ideas_page.written(record)
    assert sum(row["gain"] is not None for row in record["ideas"].values()) >= 40
    assert all(row["answer"] for row in record["ideas"].values() if row["gain"])
