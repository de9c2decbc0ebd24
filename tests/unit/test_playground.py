"""The models in JavaScript say what they say in Python (needs node)."""

import gzip
import json
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from charlm import models, results
from charlm.evaluation import loss
from charlm.playground import command, pack
from tests.workspace import PROJECT, encode_text
from tests.zoo import IN_JAVASCRIPT, SYMBOLS, described, project

V, CHARACTERS = 30, 300
TRANSFORMER = described("transformer")[2]
RECURRENT = described("recurrent")[2]
VARIANTS = {
    "average": ("transformer", TRANSFORMER | {"attention": "average", "positions": "learned"}),
    "after": ("transformer", TRANSFORMER | {"norm": "layer", "norm_place": "after", "mlp": "gelu"}),
    "plain": ("transformer", TRANSFORMER | {"norm": "none", "mlp": "none", "residual": False}),
    "swiglu": ("transformer", TRANSFORMER | {"mlp": "swiglu", "tied": True, "scaled": False}),
    "rnn_cell": ("recurrent", RECURRENT | {"cell": "rnn", "forget_bias": 0.0}),
    "gru_cell": ("recurrent", RECURRENT | {"cell": "gru", "pair_rows": 50, "layers": 2}),
    "few_pairs": ("lstm", described("lstm")[2] | {"pair_rows": 100, "layers": 2}),
    "one_discount": ("kneser_ney", described("kneser_ney")[2] | {"discounts": 1}),
    "context": ("mlp", described("mlp")[2] | {"context": 4}),
    "linear": ("ensemble", described("mixture")[2] | {"mixing": "linear"}),
    "bias": ("gpt", described("gpt")[2] | {"bias": True}),
}
RUN = """
const fs = require("fs"), { arrays, models, ids } = JSON.parse(fs.readFileSync("models.json"));
const file = fs.readFileSync("archive"), bytes = new Uint8Array(file).buffer;
function bitsOf(model, ids, before) {
  const { start, step } = KINDS[model.kind], state = start(model);
  let log_p = logSoftmax(step(model, state, before));
  return ids.map(id => {
    const bits = -log_p[id] / Math.LN2;
    log_p = logSoftmax(step(model, state, id));
    return bits;
  });
}
const bits = Object.entries(models).map(([name, packed]) =>
  [name, bitsOf(unpack({ arrays, bytes }, packed), ids, 0)]);
console.log(JSON.stringify(Object.fromEntries(bits)));
"""


def built():
    """Every model that JavaScript has, some with other parts; their weights are not fresh."""
    found = {name: described(name) for name in IN_JAVASCRIPT}
    found |= {name: (kind, 16, sizes) for name, (kind, sizes) in VARIANTS.items()}
    text_N = torch.randint(V, (2000,), generator=torch.Generator().manual_seed(1))
    # Some n-grams are seen often, and the text of the test has matches in itself.
    text_N[1000:1500] = text_N[:500]
    for name, (kind, block, sizes) in found.items():
        torch.manual_seed(2)
        model = models.build(kind, V, block, sizes).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        model.recount(text_N)
        yield name, kind, block, sizes, model


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_javascript_says_what_python_says(tmp_path):
    archive, packed, expected = pack.Archive(), {}, {}
    ids = torch.randint(V, (CHARACTERS,), generator=torch.Generator().manual_seed(3))
    ids[200:260] = ids[20:80]
    for name, kind, block, sizes, model in built():
        tensors = {key: values.numpy() for key, values in model.state_dict().items()}
        packed[name] = pack.model(archive, kind, block, sizes, tensors, V)
        nats, _ = loss.streaming(model, torch.cat([torch.zeros(1, dtype=torch.long), ids]))
        expected[name] = nats.numpy() / math.log(2)
    (tmp_path / "archive").write_bytes(gzip.decompress(archive.content()))
    content = {"arrays": archive.arrays, "models": packed, "ids": ids.tolist()}
    (tmp_path / "models.json").write_text(json.dumps(content))
    script = (PROJECT / "src/charlm/playground/models.js").read_text() + RUN
    (tmp_path / "run.js").write_text(script)
    done = subprocess.run(["node", "run.js"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(expected)
    for name, bits in found.items():
        assert None not in bits, name  # NaN or infinite
        # Rounded weights move single characters, hardly ever the mean.
        assert np.mean(bits) == pytest.approx(expected[name].mean(), abs=0.01), name
        assert bits == pytest.approx(expected[name], abs=0.3), name


def test_what_is_written_in_javascript_are_architectures():
    """Not the other way round: one of the reader's own need not be written twice."""
    assert {"gpt", "lstm", "kneser_ney", "ensemble"} <= command.written()
    assert command.written() <= {*models.names(), "ensemble"}


def test_equal_arrays_are_stored_once():
    archive = pack.Archive()
    first = archive.add(np.arange(3, dtype=np.float32))
    assert archive.add(np.arange(3, dtype=np.float32)) == first
    assert archive.add(np.arange(3, dtype=np.uint8)) != first
    assert [array["at"] for array in archive.arrays] == [0, 12]
    assert len(gzip.decompress(archive.content())) == 16


def test_a_rounded_matrix_is_near_and_a_row_of_zeros_stays():
    archive, values = pack.Archive(), torch.randn(200, 100).numpy()
    values[7] = 0
    stored = pack.tensor(archive, values)
    content = gzip.decompress(archive.content())
    whole = np.frombuffer(content, np.int8, values.size).reshape(values.shape)
    scales = np.frombuffer(content, np.float32, 200, archive.arrays[stored["scales"]]["at"])
    assert whole * scales[:, None] == pytest.approx(values, abs=float(np.abs(values).max()) / 250)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with three models, of which two have results."""
    torch.manual_seed(0)
    project(tmp_path, "bigram", "lstm", "gpt")
    (tmp_path / "data/encoded").mkdir(parents=True)
    encode_text((SYMBOLS + "\nto be, or not\n") * 50, tmp_path / "data/encoded")
    for name, bits in (("bigram", 3.0), ("lstm", 2.0)):
        leaf = {"streaming": {"validation": {"bits_per_char": bits}}}
        results.save(tmp_path / "results" / name / "metrics.json", leaf, tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_holds_all_models_the_best_first(folder):
    done = CliRunner().invoke(command.main)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("reports/playground.html: 3 models, 0.")
    page = (folder / "reports/playground.html").read_text()
    assert 'src="' not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    content = json.loads(page.split('id="models">')[1].split("</script>")[0])
    assert list(content["models"]) == ["lstm", "bigram", "gpt"]
    assert content["chosen"] == content["players"] == ["lstm", "gpt"]
    assert content["unseen"][0] != "\n"


def test_a_model_that_is_not_written_in_javascript_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(command, "written", lambda: {"bigram", "lstm", "ensemble"})
    done = CliRunner().invoke(command.main)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("reports/playground.html: 2 models, ")
    assert done.stderr.endswith("left out, because models.js has no such model: gpt\n")
    assert pack.kinds(*described("mixture")[::2]) == {"ensemble", "ngram_lstm", "lstm"}
    monkeypatch.setattr(command, "written", set)
    done = CliRunner().invoke(command.main)
    assert done.exit_code == 1
    assert done.stderr == "Error: none of these models is written in JavaScript, in models.js\n"


def test_a_page_of_models_of_another_text_is_refused(folder):
    encode_text("something else\n" * 50, folder / "data/encoded")
    done = CliRunner().invoke(command.main)
    assert done.stderr == (
        "Error: the models and the encoded text have different vocabularies: run `dvc repro`\n"
    )


def test_mistakes_are_one_line(folder):
    shutil.rmtree(folder / "models/lstm")
    (folder / "models/gpt/weights.safetensors").write_bytes(b"x")
    done = CliRunner().invoke(command.main)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: models/gpt/weights.safetensors is damaged")
    assert not (folder / "reports/playground.html").exists()
    shutil.rmtree(folder / "models")
    assert CliRunner().invoke(command.main).stderr == (
        "Error: no models in models/: run `dvc repro` or `dvc pull` first\n"
    )
