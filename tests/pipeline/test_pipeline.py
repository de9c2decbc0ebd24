"""dvc.yaml itself: what it declares, and the real graph run at scale smoke as a user would."""

import ast
import contextlib
import csv
import itertools
import json
import math
import re
import shutil
import statistics
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from charlm import models, results, saved_model
from charlm.config import architectures
from tests.workspace import (
    PROJECT,
    TINY,
    change,
    committed,
    copy_project,
    invoke,
    metrics,
    run,
    stages_run,
    without,
)

GRAPH = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"].items()
}
ZOO = ("bigram", "lstm", "kneser_ney")
RANKED = (*ZOO, "mixture")
REPEATS = ("bigram_2",)
PART = slice(440_000, 590_000)
"""Of the text, that has the prompt of params.yaml: the whole takes minutes to score."""
HALF = 7_500
"""Characters of validation, and of test."""
INERT = {
    "stages/__init__.py",
    *(f"src/charlm/{name}.py" for name in ("cli", "errors", "files", "results", "timings")),
}
"""What runs in every stage and changes no output, so that its edits make nothing again.

So are tracking, what stands at the top of a package, and config, which only reads and checks: its
values are dependencies by name. Two stages need more of config: COMPUTED.
"""


COMPUTED = {"train": "training.py", "report": "params.py"}
"""Files of config that compute: how many steps an epoch has, and what is in the ranking."""


def file_of(module: str) -> str | None:
    """Return the file of one of our modules, relative to the project."""
    base = "src/" if module.split(".")[0] == "charlm" else ""
    stem = base + module.replace(".", "/")
    for name in (f"{stem}.py", f"{stem}/__init__.py"):
        if (PROJECT / name).is_file():
            return name
    return None


def imports(file: str) -> set[str]:
    """Return our files that a file imports, those for type checkers left out."""
    tree = ast.parse((PROJECT / file).read_text())
    hidden = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    modules = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parents = {m.rsplit(".", n)[0] for m in modules for n in range(m.count(".") + 1)}
    return {f for m in modules | parents if m.startswith(("charlm", "stages")) if (f := file_of(m))}


def all_imports(file: str) -> set[str]:
    seen: set[str] = set()
    waiting = {file}
    while waiting:
        seen |= waiting
        # The package itself offers `charlm.load` to people; no stage calls it.
        waiting = {i for f in waiting - {"src/charlm/__init__.py"} for i in imports(f)} - seen
    return seen


def inert(file: str) -> bool:
    inert_packages = ("src/charlm/config/", "src/charlm/tracking/")
    return file in INERT or file.startswith(inert_packages) or file.endswith("__init__.py")


def covers(dependency: str, file: str) -> bool:
    """Return whether a dependency of dvc.yaml is a file or the package that it lies in."""
    return file == dependency or file.startswith(f"{dependency}/")


def code_of(architecture: str) -> set[str]:
    """Return the files that an architecture is made of."""
    return {file for file in all_imports(f"src/charlm/models/{architecture}.py") if not inert(file)}


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_declares_exactly_the_code_that_it_imports(stage):
    deps = GRAPH[stage]["deps"]
    declared = {dep for dep in deps if dep.startswith(("stages/", "src/"))}
    needed = {file for file in all_imports(f"stages/{stage}.py") if not inert(file)}
    if stage in COMPUTED:
        needed.add(f"src/charlm/config/{COMPUTED[stage]}")
    if stage == "train":
        # It builds its architecture by name.
        for name in architectures.names():
            own = {dep.replace("${item.model}", name) for dep in declared}
            code = needed | code_of(name)
            assert not [file for file in code if not any(covers(dep, file) for dep in own)], name
        declared -= {"src/charlm/models/${item.model}.py"}
        needed |= code_of("kneser_ney") - {"src/charlm/models/kneser_ney.py"}
    if stage == "ensemble":
        declared -= {"src/charlm/models/ensemble.py"}
    if "models" in deps or any(dep.startswith("models/") for dep in deps):
        # Of its architecture's code a saved model names the digest.
        digested = ("src/charlm/models/", "src/charlm/ngrams/")
        needed = {file for file in needed if file in declared or not file.startswith(digested)}
    for file in needed:
        assert any(covers(dep, file) for dep in declared), file
    for dep in declared:
        assert any(covers(dep, file) for file in needed), dep


@pytest.mark.parametrize("name", models.names())
def test_the_digest_of_a_saved_models_code_covers_what_it_imports(name):
    digested = (f"src/charlm/models/{name}.py", "src/charlm/models/base.py", "src/charlm/ngrams")
    assert not [file for file in code_of(name) if not any(covers(d, file) for d in digested)]


def test_the_digest_changes_with_the_code_and_with_no_other_architecture(tmp_path, monkeypatch):
    package = tmp_path / "charlm"
    shutil.copytree(PROJECT / "src/charlm", package)
    monkeypatch.setattr(models, "FOLDER", package / "models")
    names = ("gpt", "lstm")
    before = [saved_model.code_digest(name) for name in names]
    (package / "models/gpt.py").write_text("# another\n")
    after = [saved_model.code_digest(name) for name in names]
    assert after[0] != before[0]
    assert after[1] == before[1]
    (package / "ngrams/counting.py").write_text("# another\n")
    assert saved_model.code_digest("lstm") != before[1]


def test_the_import_reader_sees_what_a_stage_imports_late():
    found = all_imports("stages/train.py")
    assert "src/charlm/training/trainer.py" in found
    assert "src/charlm/data/batches.py" in found
    assert "src/charlm/report/page.py" not in found


def test_every_stage_has_a_command_with_help_and_an_example():
    from click.testing import CliRunner

    for stage in GRAPH:
        main = __import__(f"stages.{stage}", fromlist=["main"]).main
        result = CliRunner().invoke(main, ["--help"])
        assert result.exit_code == 0
        assert f"\n    charlm {stage}" in result.output


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, corpus_text) -> Path:
    """The real graph in a folder with a space in its path, run once at scale smoke."""
    folder = tmp_path_factory.mktemp("a project") / "charlm"
    part = folder.with_name("part.txt")
    part.write_text(corpus_text[PART])
    kept = {**TINY, "corpus__sources": ["gone.txt", str(part)]}
    kept |= {"corpus__bytes": None, "corpus__sha256": None}
    kept |= {"ensembles__mixture__first": "lstm", "ensembles__mixture__second": "kneser_ney"}
    copy_project(folder, RANKED, **kept, entropy__orders=[1, 2, 3])
    without(folder, "runs.bigram_3", "dynamic.lstm")
    committed(folder)
    return folder


def test_a_copy_runs_its_own_code(pipeline):
    """The installed package points at the project; a queued experiment must not."""
    code = "import stages, charlm; print(charlm.__file__)"
    path = run(pipeline, "python", "-c", code).stdout.strip()
    assert Path(path).is_relative_to(pipeline)


def test_metrics_have_the_agreed_form(pipeline):
    ways = {name: ["windowed", "windowed_256", "streaming"] for name in ZOO}
    ways["mixture"] = ["streaming"]
    for name in RANKED:
        content = metrics(pipeline, name)
        head = ["model", "text", "parameters", "context_length"]
        assert list(content) == [*head, *ways[name], results.WEIGHTS]
        for way in ways[name]:
            characters = {split: leaf["characters"] for split, leaf in content[way].items()}
            assert characters == {"validation": HALF, "test": HALF, "holdout": 2 * HALF}
            leaf = content[way]["holdout"]
            assert set(leaf) == {
                "nats_per_char",
                "bits_per_char",
                "bits_per_byte",
                "perplexity",
                "accuracy",
                "characters",
            }
            halves = [content[way][split]["nats_per_char"] for split in ("validation", "test")]
            assert leaf["nats_per_char"] == pytest.approx(sum(halves) / 2, rel=1e-12)
            assert leaf["bits_per_byte"] == pytest.approx(leaf["bits_per_char"])


def test_learning_shows_even_at_scale_smoke(pipeline):
    assert metrics(pipeline, "lstm")["streaming"]["holdout"]["nats_per_char"] < 3.2
    with (pipeline / "results/lstm/curve.csv").open() as file:
        curve = [float(row["validation_nats"]) for row in csv.DictReader(file)]
    assert curve[-1] < curve[0]


def test_the_report_holds_every_model(pipeline):
    rows = json.loads((pipeline / "reports/leaderboard.json").read_text())
    losses = [row["streaming"]["validation"]["nats_per_char"] for row in rows]
    assert sorted(row["model"] for row in rows) == sorted(RANKED)
    assert losses == sorted(losses)
    html = (pipeline / "reports/report.html").read_text()
    assert all(f"<h3>{row['model']}</h3>" in html for row in rows)
    sample = (pipeline / "results/lstm/sample.txt").read_text()
    assert sample.startswith("=== sample 1 of 2 ===\nROMEO:\n")
    assert len(sample) == 2 * (500 + len("=== sample 1 of 2 ===\nROMEO:\n")) + 3


def test_several_seeds_have_a_spread(pipeline):
    rows = json.loads((pipeline / "reports/leaderboard.json").read_text())
    found = {row["model"]: row["over_seeds"] for row in rows}
    assert [name for name, spread in found.items() if spread] == ["bigram"]
    names = ("bigram", *REPEATS)
    bits = [metrics(pipeline, n)["streaming"]["test"]["bits_per_char"] for n in names]
    assert len(set(bits)) == 2
    assert found["bigram"]["streaming"]["test"] == {
        "mean_bits_per_char": pytest.approx(statistics.mean(bits)),
        "sd_bits_per_char": pytest.approx(statistics.stdev(bits)),
    }


def test_activations_are_recorded(pipeline):
    assert (pipeline / "results/kneser_ney/activations.json").read_text() == "{}\n"
    for name in ("bigram", "lstm"):
        found = json.loads((pipeline / "results" / name / "activations.json").read_text())
        assert list(found) == ["initial", "trained"]
        first, last = found.values()
        assert [row["layer"] for row in first["layers"]][-3:] == [
            "output",
            "predictions",
            "weights",
        ]
        assert last["nats_per_char"] < first["nats_per_char"]


def test_no_clock_and_no_machine_in_the_outputs(pipeline):
    made = [*pipeline.glob("models/*/config.json"), *pipeline.glob("results/**/*.*")]
    # A sample may speak of seconds: "second citizen". Arrays hold numbers alone.
    for path in (path for path in made if path.suffix not in (".txt", ".npy")):
        text = path.read_text().lower()
        assert not re.search(r"second|device|version|cpu|cuda|20\d\d-\d\d", text), path


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_one_mlflow_run_a_model_with_its_results(pipeline, corpus_text):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == sorted([*RANKED, *REPEATS, "charlm repro"])
    whole = runs.pop("charlm repro")
    text = corpus_text[PART]
    pairs, firsts = Counter(itertools.pairwise(text)), Counter(text[:-1])
    bits = sum(n * math.log2(firsts[a] / n) for (a, _), n in pairs.items()) / (len(text) - 1)
    found = whole.data.metrics["entropy.plug_in.order_2"]
    assert found == pytest.approx(bits, abs=1e-3)
    files = {item.path for item in client.list_artifacts(whole.info.run_id, "reports")}
    assert "reports/report.html" in files
    for found in runs.values():
        assert found.data.tags["mlflow.parentRunId"] == whole.info.run_id
    mixture = runs.pop("mixture")
    assert mixture.data.tags["dvc.stage"] == "ensemble@mixture"
    counted = runs.pop("kneser_ney")
    assert counted.data.tags["dvc.stage"] == "train@kneser_ney"
    both = [r.data.metrics["streaming.validation.nats_per_char"] for r in (mixture, counted)]
    assert both == sorted(both)
    assert both[1] < 2
    for name, found in runs.items():
        assert found.info.status == "FINISHED"
        assert found.data.metrics["activations.initial.output.mean_abs"] > 0
        assert found.data.tags["dvc.stage"] == f"train@{name}"
        assert found.data.metrics["streaming.test.nats_per_char"] == pytest.approx(
            metrics(pipeline, name)["streaming"]["test"]["nats_per_char"]
        )
        files = {item.path for item in client.list_artifacts(found.info.run_id, "results")}
        assert files == {f"results/{x}" for x in ("metrics.json", "sample.txt")}
        assert len(client.get_metric_history(found.info.run_id, "validation_nats")) == 3


def test_nothing_to_do_does_nothing(pipeline):
    assert run(pipeline, "dvc", "repro").stdout.endswith("up to date.\n")


def test_the_same_bytes_again(pipeline):
    before = (pipeline / "dvc.lock").read_bytes()
    # Evaluation, ensemble and sampling run twice in the test below, to the same lock.
    again = ["train@lstm", "report"]
    output = run(pipeline, "dvc", "repro", "--force", "--single-item", *again).stdout
    assert re.findall(r"Running stage '([^']+)'", output) == again
    assert (pipeline / "dvc.lock").read_bytes() == before


def test_one_entry_reruns_one_model_and_going_back_trains_nothing(pipeline):
    before = (pipeline / "dvc.lock").read_bytes()
    change(pipeline, models__lstm__smoke__steps=20)
    last = ("evaluate@lstm", "sample@lstm")
    assert stages_run(pipeline, *last, program="charlm") == sorted(["train@lstm", *last])
    waiting = json.loads(run(pipeline, "dvc", "status", "--json").stdout)
    assert sorted(waiting) == ["ensemble@mixture", "report"]
    changed = metrics(pipeline, "lstm")
    change(pipeline, models__lstm__smoke__steps=50)
    # DVC's run cache keeps what git does not, so the model and its sample come back as they were;
    # the files that git keeps are made again in seconds.
    assert stages_run(pipeline, program="charlm") == ["evaluate@lstm"]
    assert metrics(pipeline, "lstm") != changed
    assert (pipeline / "dvc.lock").read_bytes() == before
    shown = run(pipeline, "dvc", "metrics", "show", "--json").stdout
    bits = json.loads(shown)[""]["data"]["reports/validation_bits_per_char.json"]["data"]
    assert bits["lstm"] == metrics(pipeline, "lstm")["streaming"]["validation"]["bits_per_char"]


@pytest.mark.filterwarnings("ignore")  # matplotlib's own
@pytest.mark.parametrize("document", ["python.md", "surprise.ipynb"])
def test_the_python_of_the_documents_runs(pipeline, document, monkeypatch):
    """As it stands there, one block after the other."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = (PROJECT / "docs" / document).read_text()
    if document.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] for cell in cells if "print" in "".join(cell["source"]))
        blocks = ["".join(cell["source"]) for cell in cells]
    else:
        blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) > 3
    space: dict[str, object] = {}
    with contextlib.chdir(pipeline / "results"):
        for block in blocks:
            exec(block, space)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("stages.train", "--model", "lstn"), "unknown run 'lstn' (did you mean 'lstm'?)"),
        (
            ("stages.evaluate", "--model", "x"),
            "unknown run 'x' (allowed: bigram, lstm, kneser_ney, bigram_2)",
        ),
        (("stages.sample", "--model", "lstm", "--top-k", "0"), "--top-k: input should be"),
        (("stages.sample", "--model", "lstm", "--temperature", "-1"), "--temperature: input"),
        (("stages.sample", "--model", "lstm", "--prompt", ""), "--prompt: string should have"),
        (
            ("stages.sample", "--model", "bigram", "--prompt", "naïve"),
            "--prompt: symbol 'ï' (U+00EF) at position 2 is not in the vocabulary",
        ),
    ],
)
def test_a_users_mistake_is_one_line(pipeline, command, expected):
    done = invoke(pipeline, *command)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {expected}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_missing_and_damaged_files_are_one_line(pipeline):
    weights = pipeline / "models/bigram/weights.safetensors"
    good = weights.read_bytes()
    weights.unlink()
    for content, expected in ((None, "is missing"), (b"{}", "is damaged")):
        if content is not None:
            weights.write_bytes(content)
        done = invoke(pipeline, "stages.sample", "--model", "bigram")
        assert done.exit_code == 1
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    weights.write_bytes(good)


def test_a_misspelled_key_stops_the_stage_before_any_work(pipeline):
    change(pipeline, sampling__temprature=1.0)
    try:
        done = run(pipeline, "dvc", "repro", "sample@lstm", check=False)
        assert done.returncode != 0
        assert "sampling.temprature: unknown key" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        run(pipeline, "git", "checkout", "-q", "params.yaml")


def test_people_can_watch_a_model_write(pipeline):
    command = ("stages.sample", "--model", "lstm", "--prompt", "ROMEO:", "--length", "50")
    streamed = run(pipeline, "python", "-m", *command, "--stream").stdout
    assert streamed.startswith("ROMEO:")
    assert len(streamed) == len("ROMEO:") + 50 + 1
    command += ("--temperature", "0", "--samples", "1")
    greedy, again = invoke(pipeline, *command), invoke(pipeline, *command, "--seed", "9")
    assert greedy.exit_code == 0
    assert greedy.stdout == again.stdout
