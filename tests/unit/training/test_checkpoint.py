import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from charlm import models
from charlm.errors import UserError
from charlm.training import checkpoint
from charlm.training.checkpoint import Checkpoint, CheckpointFile, Interrupted
from tests.workspace import at_scale, trainable
from tests.zoo import BY_STEPS, fit

SMOKE = at_scale("smoke")


class InMemory:
    """A checkpoint in memory; one is due at the given time of asking, and stops the training."""

    def __init__(self, asked, checkpoint=None):
        self.left = asked
        self.checkpoint = checkpoint

    @property
    def due(self):
        self.left -= 1
        return self.left < 0

    def load(self):
        return self.checkpoint

    def save(self, checkpoint):
        # Later steps change the tensors of a training in place.
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        self.checkpoint = Checkpoint(tensors, checkpoint.content)
        raise Interrupted(signal.SIGINT, checkpoint.content["step"])


def train(name, corpus_ids, checkpoints=None, fresh=1, **changes):
    run = SMOKE.run(name)
    plan = run.training.model_copy(
        update={"steps": 9, "epochs": None, "validate_every": 4, "validation_characters": 256}
        | changes
    )
    torch.manual_seed(fresh)
    model = models.build(run.model, 65, plan.block, run.architecture)
    text_N = corpus_ids["train"][:3000]
    features_NKV = model.prepare(text_N)
    curve = fit(
        model,
        text_N,
        corpus_ids["validation"],
        plan,
        2,
        features_NKV=features_NKV,
        checkpoints=checkpoints,
    )
    return curve, model.state_dict()


@pytest.mark.parametrize("name", BY_STEPS)
@pytest.mark.parametrize("asked", [0, 4])
def test_going_on_ends_in_the_same_bytes(name, asked, corpus_ids):
    """Also across the start of another pass through the text, and with dropout."""
    expected_curve, weights = train(name, corpus_ids)
    stopped = InMemory(asked)
    with pytest.raises(Interrupted):
        train(name, corpus_ids, stopped)
    assert stopped.checkpoint.content["step"] == asked + 1
    curve, found = train(name, corpus_ids, InMemory(99, stopped.checkpoint), fresh=99)
    assert curve == expected_curve
    assert all(torch.equal(found[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "muon"}, {"weight_averaging": 0.9}, {"optimizer": "sgd", "momentum": 0.9}],
)
def test_whatever_the_optimizer_remembers_goes_on(changes, corpus_ids):
    expected_curve, weights = train("transformer", corpus_ids, **changes)
    stopped = InMemory(2)
    with pytest.raises(Interrupted):
        train("transformer", corpus_ids, stopped, **changes)
    again = InMemory(99, stopped.checkpoint)
    curve, found = train("transformer", corpus_ids, again, fresh=99, **changes)
    assert curve == expected_curve
    assert all(torch.equal(found[key], tensor) for key, tensor in weights.items())


def test_a_checkpoint_survives_its_file(tmp_path, corpus_ids):
    whole = train("shake_lstm", corpus_ids)
    stopped = InMemory(3)
    with pytest.raises(Interrupted):
        train("shake_lstm", corpus_ids, stopped)
    with CheckpointFile(tmp_path, "kept", "a", 3600) as file:
        file.save(stopped.checkpoint)
        curve, found = train("shake_lstm", corpus_ids, file, fresh=99)
    assert curve == whole[0]
    assert all(torch.equal(found[key], tensor) for key, tensor in whole[1].items())


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_used(tmp_path):
    path = tmp_path / "kept-a"
    checkpoint = Checkpoint({"model.w": torch.arange(3.0)}, {"step": 7})
    with CheckpointFile(tmp_path, "kept", "a", 30) as file:
        assert file.load() is None
        file.save(checkpoint)
        found = file.load()
        assert found.content["step"] == 7
        assert found.tensors["model.w"].tolist() == [0, 1, 2]
    with CheckpointFile(tmp_path, "kept", "b", 30) as other:
        assert other.load() is None
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with CheckpointFile(tmp_path, "kept", "a", 30) as file:
            assert file.load() is None
            file.remove()
        assert not path.exists()


def test_two_trainings_of_one_run_do_not_meet_and_old_ones_go(tmp_path):
    """As two experiments of a queue do, or one whose parameters were changed."""
    other = Checkpoint({"model.w": torch.ones(1)}, {"step": 3})
    with (
        CheckpointFile(tmp_path, "lstm", "a" * 64, 30) as first,
        CheckpointFile(tmp_path, "lstm", "b" * 64, 30) as second,
    ):
        first.save(other)
        second.save(other)
        second.remove()
        assert first.load() is not None
        old = tmp_path / f"lstm-{'c' * checkpoint.DIGITS}"
        old.touch()
        os.utime(old, (0, 0))
        stranger = tmp_path / "lstm_2-cccccccccccc"
        stranger.touch()
        os.utime(stranger, (0, 0))
        first.remove()
    assert not old.exists()
    assert stranger.exists()


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    with (
        CheckpointFile(tmp_path, "idea-1-0.333", "a" * 64, 30),
        CheckpointFile(tmp_path, "idea-1-0.333", "b" * 64, 30),
        CheckpointFile(tmp_path, "idea-1-0.111", "a" * 64, 30),
    ):
        locks = sorted(path.name for path in tmp_path.glob("*.lock"))
    assert locks == [
        "idea-1-0.111-aaaaaaaaaaaa.lock",
        "idea-1-0.333-aaaaaaaaaaaa.lock",
        "idea-1-0.333-bbbbbbbbbbbb.lock",
    ]


def test_a_queued_experiment_has_its_checkpoint_in_the_project(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / ".dvc/tmp/exps/tmp1"):
        (folder / ".dvc").mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").touch()
        (folder / "dvc.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path / ".dvc/tmp/exps/tmp1")
    assert checkpoint.folder() == tmp_path / ".checkpoints"


def test_a_fingerprint_sees_parameters_and_content(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("x = 1")
    first = checkpoint.fingerprint([{"steps": 3}, file])
    assert first == checkpoint.fingerprint([{"steps": 3}, file])
    assert first != checkpoint.fingerprint([{"steps": 4}, file])
    file.write_text("x = 2")
    assert first != checkpoint.fingerprint([{"steps": 3}, file])


def test_one_training_at_a_time(tmp_path):
    code = "import sys, pathlib, charlm.training.checkpoint as k\n"
    code += "with k.CheckpointFile(pathlib.Path(sys.argv[1]), 'lstm', 'a', 1):\n"
    code += " print('in', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"in\n"
        with (
            pytest.raises(UserError, match="lstm is being trained by another process"),
            CheckpointFile(tmp_path, "lstm", "a", 1),
        ):
            pass
        process.kill()
    with CheckpointFile(tmp_path, "lstm", "a", 1):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_checkpoint_and_an_end(tmp_path, number):
    before = signal.getsignal(number)
    with CheckpointFile(tmp_path, "kept", "a", 1000) as file:
        assert not file.due
        os.kill(os.getpid(), number)
        assert file.due
        with pytest.raises(Interrupted, match="after step 1,234") as stopped:
            file.save(Checkpoint({}, {"step": 1234}))
        assert stopped.value.status == 128 + number
        assert file.load().content["step"] == 1234
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) == before


def test_checkpoints_are_taken_at_the_interval(tmp_path):
    with CheckpointFile(tmp_path, "kept", "a", 0.05) as file:
        assert not file.due
        time.sleep(0.06)
        assert file.due
        file.save(Checkpoint({}, {"step": 1}))
        assert not file.due


@pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies warn
def test_ctrl_c_keeps_says_so_and_goes_on(tmp_path, corpus_path):
    folder = trainable(tmp_path / "copy", ["lstm"], corpus_path, models__lstm__smoke__steps=300)
    command = [sys.executable, "-m", "stages.train", "--model", "lstm"]

    def kept():
        files = (folder / ".checkpoints").glob("lstm-*")
        return [one for one in files if one.suffix not in (".lock", ".json")]

    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not kept() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "lstm: stopped after step" in said
    assert "Traceback" not in said
    assert not (folder / "models/lstm").exists()
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "lstm: going on after step" in again.stderr
    assert not kept()
    assert not list((folder / ".checkpoints").glob("*.json"))
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tinyshakespeare")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "validation_nats")]
    assert sorted(steps) == [0, *range(25, 301, 25)]


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(tmp_path, corpus_ids):
    with CheckpointFile(tmp_path, "kept", "a", 0) as file:
        with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+ \(learning rate"):
            train(
                "mlp", corpus_ids, checkpoints=file, learning_rate=1e30, steps=50, validate_every=5
            )
        kept = file.load()
    assert kept.content["step"] > 0
    assert all(torch.isfinite(t).all() for name, t in kept.tensors.items() if "model." in name)
