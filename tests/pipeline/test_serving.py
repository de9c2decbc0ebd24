"""Models in MLflow's registry: what is in them, what they write, and what they refuse."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from charlm import results, saved_model, tracking
from charlm.serving import registry
from stages import sample
from tests.workspace import PROJECT, change
from tests.zoo import SMOKE, build, config

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn

SYMBOLS = "\n EJLMORTUabcdefgh"
PROMPT = "ROMEO\n"
BITS = {"lstm": 2.0, "bigram": 3.0}
"""Two models of a project; the first reads its last two characters again for each one drawn."""


def rank(name, bits):
    leaf = {"bits_per_char": bits}
    content = {"streaming": {"validation": leaf}}
    results.save(Path("results") / name / "metrics.json", content, Path("models") / name)


def trained_anew(name):
    torch.manual_seed(9)
    model, _ = build(name, len(SYMBOLS))
    saved_model.save(Path("models") / name, model, config(name, SYMBOLS))
    rank(name, 2.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with two models, a run of MLflow for each, and both registered."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, folder)
    change(folder, models__lstm__sampling={"context": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_ROOT", raising=False)
        patch.chdir(folder)
        client = tracking.Client(SMOKE.corpus.name, folder)
        for name, bits in BITS.items():
            at = Path("models") / name
            saved_model.save(at, build(name, len(SYMBOLS))[0], config(name, SYMBOLS))
            rank(name, bits)
            client.start(name, {}, {}, {"name": "text", "digest": "d", "source": "data/encoded"})
            client.finish({}, {"weights_sha256": tracking.weights_digest(at)}, [])
        assert client.works
        assert registered().stdout == "models:/tinyshakespeare@best\n"
        yield folder


def registered(*arguments):
    return CliRunner().invoke(registry.main, arguments)


def connection(folder):
    client, experiment = tracking.connect(SMOKE.corpus.name, folder)
    models = {model.name: model for model in client.search_logged_models([experiment])}
    return client, models


@pytest.fixture(scope="module", params=BITS)
def served(request, project):
    """One of the two as MLflow loads it, with the code that is kept in the model, not ours."""
    import mlflow

    def ours():
        return [name for name in sys.modules if name.split(".")[0] == "charlm"]

    uri = f"sqlite:///{project}/mlflow.db"
    path, before = sys.path, {name: sys.modules.pop(name) for name in ours()}
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/tinyshakespeare-{request.param}/1")
        kept = Path(sys.modules["charlm.serving"].__file__)
    finally:
        mlflow.set_tracking_uri(None)
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path = path
    assert project / "mlartifacts" in kept.parents
    assert list((project / "mlartifacts").rglob("input_example.json"))
    return request.param, loaded


def drawn(name, **options):
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    result = CliRunner().invoke(sample.main, ["--model", name, "--samples=1", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length": 40, "seed": 11},
        {"length": 40, "temperature": 0.0},
        {"length": 40, "temperature": 1.3, "top_k": 4, "top_p": 0.7, "seed": 2**63 - 1},
    ],
)
def test_a_served_model_writes_what_the_stage_writes(served, settings):
    name, model = served
    (text,) = model.predict({"prompt": PROMPT}, settings)
    assert text == drawn(name, prompt=PROMPT, **settings)
    assert len(text) == len(PROMPT) + settings.get("length", SMOKE.named(name).sampling.length)


def test_each_of_several_prompts_is_drawn_as_if_alone(served):
    _, model = served
    several = model.predict([{"prompt": "RO"}, {"prompt": "JU"}], {"length": 20})
    assert several == [model.predict({"prompt": one}, {"length": 20})[0] for one in ("RO", "JU")]


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ("RÖMEO", {}, "prompt: symbol 'Ö' (U+00D6) at position 1 is not in the vocabulary"),
        ("", {}, "prompt: string should have at least 1 character, not ''"),
        (7, {}, "Incompatible input types for column prompt"),
        (["R"], {}, "prompt: input should be a valid string, not ['R']"),
        ("\ud800", {}, "surrogates not allowed"),
        ("R", {"temperature": -1.0}, "temperature: input should be greater than or equal to 0"),
        ("R", {"temperature": float("nan")}, "temperature: input should be a finite number"),
        ("R", {"temperature": "hot"}, "Can not safely convert `<class 'str'>`"),
        ("R", {"length": 0}, "length: input should be greater than or equal to 1, not 0"),
        ("R", {"length": None}, "length: input should be a valid integer, not None"),
        ("R", {"length": 10**9}, "length: input should be less than or equal to 1000000, not"),
        ("R", {"length": 5000}, "length: 5,001 characters in one call, prompts included"),
        ("R" * 5000, {"length": 1}, "length: 5,001 characters in one call"),
        ("R", {"top_k": 0}, "top_k: input should be greater than or equal to 1, not 0"),
        ("R", {"top_p": 1.5}, "top_p: input should be less than or equal to 1, not 1.5"),
        ("R", {"seed": -1}, "seed: input should be greater than or equal to 0, not -1"),
        ("R", {"seed": 2**63}, "seed: input should be less than 9223372036854775808"),
    ],
)
def test_bad_input_is_the_callers_mistake_in_one_line(served, prompt, settings, said):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as caught:
        served[1].predict({"prompt": prompt}, settings)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_a_model_holds_safetensors_code_and_the_lock_and_nothing_pickled(project):
    _, models = connection(project)
    for name, model in models.items():
        folder = Path(model.artifact_location.removeprefix("file://"))
        # Loading adds bytecode and, under its name in the registry, registered_model_meta.
        files = [path for path in folder.rglob("*.*") if path.parent.name != "__pycache__"]
        kinds = {path.suffix for path in files}
        assert kinds == {".safetensors", ".json", ".py", ".j2", ".js", ".typed", ".txt", ".yaml"}
        described = (folder / "MLmodel").read_text()
        assert "pickle" not in described
        assert "python_model" not in described
        assert str(project) not in described
        assert (folder / "requirements.txt").read_text().split() == (
            PROJECT / "requirements.lock"
        ).read_text().split()
        for file in (saved_model.WEIGHTS, saved_model.CONFIG):
            kept = folder / "data" / name / file
            assert kept.read_bytes() == (project / "models" / name / file).read_bytes()


def test_a_model_belongs_to_the_run_that_made_its_weights(project):
    client, models = connection(project)
    assert set(models) == set(BITS)
    for name, model in models.items():
        run = client.get_run(model.source_run_id)
        weights = tracking.weights_digest(project / "models" / name)
        assert run.data.tags["weights_sha256"] == model.tags["weights_sha256"] == weights
        assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
        (version,) = client.search_model_versions(f"name = 'tinyshakespeare-{name}'")
        assert version.run_id == model.source_run_id
        assert version.tags["validation_bits_per_char"] == f"{BITS[name]:.4f}"


def state(folder):
    client, models = connection(folder)
    versions = client.search_model_versions("")
    best = client.get_model_version_by_alias("tinyshakespeare", "best")
    found = {
        (each.name, each.version, each.run_id, each.last_updated_timestamp) for each in versions
    }
    return set(models), found, best.tags["validation_bits_per_char"]


def test_registering_twice_changes_nothing_and_a_new_best_moves_the_alias(project):
    before = state(project)
    assert len(before[1]) == 3
    again = registered("--model", "bigram")
    assert again.stdout == "models:/tinyshakespeare-bigram/1\n"
    assert again.stderr == (
        "2 models, 0 versions added; best on validation: lstm, 2.0000 bits per character\n"
    )
    assert state(project) == before
    rank("bigram", 1.5)
    assert "1 versions added; best on validation: bigram, 1.5000" in registered().stderr
    after = state(project)
    assert (after[0], len(after[1]), after[2]) == (before[0], 4, "1.5000")
    rank("bigram", BITS["bigram"])
    assert registered().exit_code == 0
    assert state(project)[2] == "2.0000"


@pytest.mark.parametrize(
    ("break_it", "arguments", "said"),
    [
        (lambda: None, ["--model", "gpt"], "no 'gpt' in models/ (ranked there: bigram, lstm)"),
        (lambda: shutil.rmtree("models"), [], "no models in models/"),
        (lambda: Path("results/lstm/metrics.json").unlink(), [], "metrics.json is missing"),
        (
            lambda: Path("models/lstm/weights.safetensors").write_bytes(b"others"),
            [],
            "results/lstm/metrics.json is of other weights than those in models/lstm",
        ),
        (
            lambda: trained_anew("lstm"),
            [],
            "no run of MLflow made lstm: run `charlm track` first",
        ),
        (lambda: Path("mlflow.db").write_text("no database" * 999), [], "MLflow: "),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    project, tmp_path, monkeypatch, break_it, arguments, said
):
    for name in ("params.yaml", "dvc.yaml", "mlflow.db"):
        shutil.copy(project / name, tmp_path)
    for name in ("models", "results"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    break_it()
    result = registered(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def address(project, pytestconfig):
    """Where `mlflow models serve` answers with the best model."""
    if not pytestconfig.getoption("services"):
        pytest.skip("10 s: `make services` runs it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = ["mlflow", "models", "serve", "-m", "models:/tinyshakespeare@best"]
    server = subprocess.Popen(
        [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
        cwd="/",
        env={
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while post(f"http://127.0.0.1:{port}/ping")[0] != 200:
            assert server.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def post(address, content=None):
    """Return the status and what came with it; 0 if nobody answers."""
    body = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def test_the_best_model_answers_over_http(address):
    settings = {"length": 60, "temperature": 0.9, "top_k": 6, "top_p": 0.95, "seed": 5}
    expected = drawn("lstm", prompt=PROMPT, **settings)
    status, text = post(address, {"prompt": PROMPT, **settings})
    assert (status, json.loads(text)) == (200, [expected])
    status, text = post(address, {"inputs": [PROMPT, PROMPT], "params": settings})
    assert (status, json.loads(text)) == (200, {"predictions": [expected] * 2})
    for bad, said in [
        ({"prompt": "Ö"}, "prompt: symbol 'Ö' (U+00D6) at position 0 is not in the vocabulary"),
        ({"prompt": ""}, "prompt: string should have at least 1 character"),
        ({"prompt": 7}, "Incompatible input types for column prompt"),
        ({"prompt": "R", "temperature": -1}, "temperature: input should be greater than or equal"),
        ({"prompt": "R", "temperature": "hot"}, "Can not safely convert"),
        ({"prompt": "R", "length": 5000}, "length: 5,001 characters in one call"),
        ({"length": 5}, "must be a JSON dictionary with exactly one of the input fields"),
        (["R"], "Received a list"),
    ]:
        status, text = post(address, bad)
        assert status == 400, bad
        assert said in json.loads(text)["message"]
