import concurrent.futures
import http.client
import json
import math
import re
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

from charlm import results, saved_model
from charlm.files import write_json
from charlm.serving import playground
from stages import sample
from tests.playing import SYMBOLS, project, serving
from tests.workspace import PROJECT

# lmnet reads a block again for each character, the others carry a state.
MODELS = ("bigram", "gpt", "kneser_ney", "lmnet", "lstm")
WISH = {
    "prompt": "ROMEO:\n",
    "length": 40,
    "temperature": 0.8,
    "top_k": 5,
    "top_p": 0.9,
    "seed": 7,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return project(tmp_path_factory.mktemp("playground"), *MODELS)


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder) as found:
        yield found


def ask(address, path, content=None, **headers) -> tuple[int, str]:
    """Return status and body of a GET, or of a POST of some JSON."""
    data = None if content is None else json.dumps(content).encode()
    sent = {"Content-Type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, sent)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def written(address, **changes) -> list[dict]:
    status, body = ask(address, "/write", {"model": "bigram", **WISH, **changes})
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def text(characters) -> str:
    return "".join(character["symbol"] for character in characters)


@pytest.mark.parametrize("name", MODELS)
def test_the_text_is_what_the_stage_prints(address, folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in WISH.items()]
    printed = CliRunner().invoke(sample.main, ["--model", name, "--samples", "1", *arguments])
    assert printed.exit_code == 0, printed.output
    found = written(address, model=name)
    assert text(found) + "\n" == printed.stdout
    assert text(written(address, model=name, seed="8")) != text(found)


@pytest.mark.parametrize("name", ["bigram", "gpt", "kneser_ney", "lstm"])
def test_bits_are_of_the_models_own_probabilities_in_prompt_and_text(address, folder, name):
    # Temperature and top-k decide what is drawn, not what it cost.
    found = written(address, model=name, temperature=0.1, top_k=2, length=20)
    model, config = saved_model.load(folder / "models" / name, torch.device("cpu"))
    ids_T = torch.tensor(config.vocabulary.encode(text(found))).long()
    with torch.no_grad():
        log_p_TV = model(ids_T[None, :-1])[0][0].double().log_softmax(dim=-1)
    bits = -log_p_TV.gather(1, ids_T[1:, None])[:, 0] / math.log(2)
    assert found[0]["bits"] is None
    assert [of["bits"] for of in found[1:]] == pytest.approx(bits.tolist(), abs=2e-3)
    assert [of["drawn"] for of in found] == [False] * 7 + [True] * 20
    best = log_p_TV[-1].argmax()
    assert found[-1]["guesses"][0] == config.symbols[best]
    assert found[-1]["percent"][0] == pytest.approx(100 * log_p_TV[-1, best].exp().item(), abs=0.06)


def test_characters_that_the_context_leaves_out_have_no_bits(address):
    # At scale smoke the block of lmnet holds 32.
    found = written(address, model="lmnet", prompt="to be, or not" * 4)
    assert [of["bits"] is None for of in found] == [True] * 21 + [False] * (31 + WISH["length"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "tree é"}, r"prompt: symbol 'é' \(U\+00E9\) at position 5 is not in the"),
        ({"prompt": ""}, "prompt: string should have at least 1 character, not ''"),
        ({"prompt": "o" * 10_001}, r"prompt: string should have at most 10000 .*not 'o+\.\.\.o+'"),
        ({"prompt": "\ud800"}, "prompt: input should be a valid string"),
        ({"temperature": "-1"}, "temperature: input should be greater than or equal to 0, not '-1"),
        ({"temperature": math.nan}, "temperature: input should be a finite number, not nan"),
        ({"temperature": ""}, "temperature: input should be a valid number"),
        ({"top_k": "0"}, "top-k: input should be greater than or equal to 1, not '0'"),
        ({"top_p": 1.5}, "top-p: input should be less than or equal to 1, not 1.5"),
        ({"length": 10_001}, "length: input should be less than or equal to 10000, not 10001"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, not -1"),
        ({"samples": 2}, "samples: input should be less than or equal to 1"),
        (
            {"model": "lsmt"},
            r"unknown model 'lsmt' \(allowed: bigram, gpt, kneser_ney, lmnet, lstm",
        ),
        ({"model": "../models/lstm"}, r"unknown model '\.\./models/lstm'"),
        ({"model": "/etc"}, "unknown model '/etc'"),
        ({"model": ""}, "unknown model ''"),
        ({"colour": "red"}, "colour: extra inputs are not permitted, not 'red'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(address, change, said):
    status, body = ask(address, "/write", {"model": "bigram", **WISH, **change})
    assert status == 422
    message = json.loads(body)["error"]
    assert re.match(said, message), message
    assert "\n" not in message


def test_a_model_that_cannot_be_used_does_not_stop_the_others(tmp_path):
    project(tmp_path, "bigram", "lstm", "gpt")
    (tmp_path / "models/lstm/weights.safetensors").write_bytes(b"x")
    weights = tmp_path / "models/gpt"
    model, config = saved_model.load(weights, torch.device("cpu"))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    saved_model.save(weights, model, config)
    with serving(tmp_path) as address:
        status, body = ask(address, "/write", {"model": "lstm", **WISH})
        assert status == 422
        assert "weights.safetensors is damaged" in json.loads(body)["error"]
        assert written(address, model="gpt")[-1]["error"].startswith("gpt cannot write: ")
        assert len(written(address)) == 7 + WISH["length"]


def test_texts_that_are_written_at_once_are_those_written_alone(address):
    wishes = [{"model": name, "seed": seed} for name in MODELS for seed in (1, 2)]
    alone = [written(address, **wish) for wish in wishes]
    with concurrent.futures.ThreadPoolExecutor(len(wishes)) as pool:
        together = list(pool.map(lambda wish: written(address, **wish), wishes))
    assert together == alone


def test_characters_come_as_they_are_drawn_and_stop_with_their_reader(address, monkeypatch):
    drawn = []

    def slowly(*_):
        for place in range(1000):
            drawn.append(place)
            yield playground.Character("o", True, 1.0, "o", [50.0])
            time.sleep(0.01)

    monkeypatch.setattr(playground, "write", slowly)
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request(
        "POST",
        "/write",
        json.dumps({"model": "bigram", **WISH}),
        {"Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    assert json.loads(answer.readline())["symbol"] == "o"
    assert len(drawn) < 50
    answer.close()
    connection.close()
    time.sleep(0.3)
    stopped = len(drawn)
    time.sleep(0.2)
    assert len(drawn) == stopped < 500


def test_models_are_offered_best_first(folder, address):
    for name, bits in (("gpt", 2.5), ("lstm", 1.5)):
        path = folder / "results" / name / "metrics.json"
        content = {"streaming": {"validation": {"bits_per_char": bits}}}
        results.save(path, content, folder / "models" / name)
    # What was measured with other weights ranks nothing.
    write_json(folder / "results/lmnet/metrics.json", content | {results.WEIGHTS: "0" * 64})
    offered = json.loads(ask(address, "/models")[1])
    assert [(of["name"], of["bits"]) for of in offered["models"]] == [
        ("lstm", 1.5),
        ("gpt", 2.5),
        ("bigram", None),
        ("kneser_ney", None),
        ("lmnet", None),
    ]
    assert offered["settings"]["temperature"] == 0.8


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1 x"])
def test_a_foreign_name_that_points_here_is_refused(address, host):
    assert ask(address, "/models", Host=host)[0] == 400
    assert ask(address, "/write", {"model": "bigram", **WISH}, Host=host)[0] == 400


def test_a_form_of_a_foreign_page_is_refused(address):
    # What a browser sends across sites without asking first.
    wish = {"model": "bigram", **WISH}
    assert ask(address, "/write", wish, **{"Content-Type": "text/plain"})[0] == 422


def test_the_page_needs_nothing_from_elsewhere(address):
    status, page = ask(address, "/")
    assert status == 200
    assert not re.findall(r"https?://|innerHTML|insertAdjacent|document\.write|Storage", page)
    for path in ("/docs", "/redoc", "/openapi.json", "/../params.yaml", "/models/lstm"):
        assert ask(address, path)[0] == 404


def test_the_colours_are_those_of_the_report():
    files = ("report/templates/report.html.j2", "serving/playground.html")
    report, page = ((PROJECT / "src/charlm" / name).read_text() for name in files)
    for rule in ("rgb(217 72 15 / var(--a))", "(Math.min(bits / 8, 1) * 0.65).toFixed(2)"):
        assert rule in report
        assert rule in page


def test_a_port_in_use_and_no_models_are_one_line_each(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(playground.main, ["--port", str(port)])
    assert result.exit_code == 1
    assert result.output == f"Error: --port: {port} is in use; choose another, or 0 for any\n"
    monkeypatch.chdir(project(tmp_path))
    result = CliRunner().invoke(playground.main, [])
    assert result.exit_code == 1
    assert result.output == "Error: no models in models/: run `dvc repro` or `dvc pull` first\n"


def test_ctrl_c_ends_it_quietly_in_the_midst_of_a_text(folder):
    command = [sys.executable, "-m", "charlm.serving.playground", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = process.stdout.readline()
        address = re.fullmatch(r"playground on (http://127\.0\.0\.1:\d+) \(Ctrl-C .*\n", said)[1]
        wish = json.dumps({"model": "gpt", **WISH, "length": 10_000}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/write", wish, headers)
        with urllib.request.urlopen(request) as answer:
            answer.readline()
            process.send_signal(signal.SIGINT)
            assert len(answer.readlines()) < 10_000
        assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_the_test_models_know_the_prompt():
    assert set(WISH["prompt"]) <= set(SYMBOLS)
