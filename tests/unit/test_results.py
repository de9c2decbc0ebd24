import pytest
import torch
from click.testing import CliRunner

from charlm import results, saved_model
from charlm.errors import UserError
from charlm.evaluation import compress
from charlm.tracking import track
from tests.workspace import encode_text
from tests.zoo import SYMBOLS, build, config, project


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with an encoded text, a model and its results."""
    project(tmp_path, "bigram")
    (tmp_path / "data/encoded").mkdir(parents=True)
    encode_text(SYMBOLS * 20, tmp_path / "data/encoded")
    leaf = {"bits_per_char": 1.0, "nats_per_char": 0.7}
    content = {"streaming": {"validation": leaf, "holdout": leaf}}
    results.save(tmp_path / "results/bigram/metrics.json", content, tmp_path / "models/bigram")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_are_read_with_their_weights_and_with_no_others(folder):
    file, model = folder / "results/bigram/metrics.json", folder / "models/bigram"
    assert results.load(file, model)["streaming"]["holdout"]["bits_per_char"] == 1.0
    (model / "weights.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match=r"metrics\.json is of other weights .* run `dvc repro`"):
        results.load(file, model)
    (file.parent / "ensemble.json").write_text("{}")
    with pytest.raises(UserError, match="`charlm ensemble --model bigram`"):
        results.load(file, model)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{"])
def test_a_damaged_file_is_one_line(folder, content):
    file = folder / "results/bigram/metrics.json"
    file.write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        results.load(file, folder / "models/bigram")


def test_missing_weights_are_one_line(folder):
    (folder / "models/bigram/weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing: run `dvc repro`"):
        results.load(folder / "results/bigram/metrics.json", folder / "models/bigram")


def test_whoever_reads_them_says_so_in_one_line(folder, capsys):
    """Compression compares with them, the registry ranks by them, MLflow keeps them."""
    torch.manual_seed(5)
    saved_model.save(
        folder / "models/bigram", build("bigram", len(SYMBOLS))[0], config("bigram", SYMBOLS)
    )
    done = CliRunner().invoke(compress.main, ["holdout", "--model", "bigram"])
    assert done.exit_code == 1
    assert "results/bigram/metrics.json is of other weights" in done.stderr
    with pytest.raises(UserError, match="of other weights"):
        results.validation_bits(folder / "results/bigram/metrics.json", folder / "models/bigram")

    class Client:
        works = True

        def knows(self, weights):
            return True

    assert not track.add(Client(), "bigram", None)
    assert "bigram: without its results: results/bigram/metrics.json is of other weights" in (
        capsys.readouterr().err
    )


def test_dynamic_results_that_were_left_out_are_said_to_be(folder):
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(
        text.replace("dynamic_evaluation: true", "dynamic_evaluation: false")
    )
    done = CliRunner().invoke(compress.main, ["holdout", "--model", "lstm", "--dynamic"])
    assert done.exit_code == 1
    assert done.output == (
        "Error: --dynamic compares with dynamic evaluation: dynamic_evaluation is false\n"
    )
