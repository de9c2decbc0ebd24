import subprocess
import sys

import pytest
import safetensors.torch
import torch

from charlm.data.batches import Batch
from charlm.training.distributed import ALONE, Ranks
from stages.train import torchrun
from tests.workspace import PROJECT, run, trainable

MODELS = ("lstm", "gpt")
"""Streams with a carried state, and windows."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the weights of one process and of two."""
    folders = []
    for name, launcher in (("alone", [sys.executable]), ("shared", torchrun(2))):
        folder = tmp_path_factory.mktemp(name)
        command = [*launcher, "-m", "tests.ranked", str(folder), *MODELS]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folders.append(folder)
    return folders


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_reach_the_weights_of_one(trained, name):
    """The seven rows of a batch are four and three."""
    alone, shared = (safetensors.torch.load_file(folder / name) for folder in trained)
    assert alone.keys() == shared.keys()
    for key, tensor in alone.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(shared[key], tensor, rtol=0, atol=1e-8, msg=key)


def test_shares_cover_a_batch_and_weigh_characters():
    rows_BT = torch.arange(7)[:, None].expand(7, 3)
    batch = Batch(rows_BT, rows_BT + 1, fresh=True)
    parts = [Ranks(rank, 3).share(batch) for rank in range(3)]
    assert torch.equal(torch.cat([part.inputs_BT for part, _ in parts]), rows_BT)
    assert torch.equal(torch.cat([part.targets_BT for part, _ in parts]), rows_BT + 1)
    weighted = [weight * part.inputs_BT.double().mean() for part, weight in parts]
    assert sum(weighted).item() / 3 == pytest.approx(rows_BT.double().mean().item())
    assert ALONE.share(batch) == (batch, 1.0)
    with pytest.raises(ValueError, match="7 sequences cannot be shared by 8 processes"):
        Ranks(0, 8).share(batch)


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_params_set_the_number_of_processes(tmp_path, corpus_path):
    short = {"processes": 2, "models__bigram__smoke__steps": 20}
    folder = trainable(tmp_path / "copy", ["bigram"], corpus_path, **short)
    # Seconds that cannot be written must not fail a training that has ended.
    (folder / ".timings").write_text("no folder")
    done = run(folder, "python", "-m", "stages.train", "--model", "bigram")
    assert done.stderr.count("bigram: 20 steps in") == 1
    assert (folder / "models/bigram/weights.safetensors").is_file()
    assert not [path for path in (folder / ".checkpoints").iterdir() if path.suffix != ".lock"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
