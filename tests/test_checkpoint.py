import json

import pytest
import torch

from charlm import checkpoint, models
from charlm.errors import UserError
from tests.zoo import SMOKE, architecture_of, build


def config(name):
    entry = SMOKE.entry(name)
    return checkpoint.Config(entry.model, 32, "train", "abc", architecture_of(entry), {}, {})


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path, config("lstm").build(), config("lstm"))
    return tmp_path


@pytest.mark.parametrize("name", models.names())
def test_what_is_saved_is_loaded(tmp_path, name):
    model, _ = build(name, 3, 32)
    checkpoint.save(tmp_path, model, config(name))
    loaded, read = checkpoint.load(tmp_path, torch.device("cpu"))
    assert read == config(name)
    assert not loaded.training
    ids_BT = torch.randint(3, (2, 32))
    assert torch.equal(model(ids_BT)[0], loaded(ids_BT)[0])


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = config("gpt").build()
    for name in "ab":
        checkpoint.save(tmp_path / name, model, config("gpt"))
    for file in (checkpoint.WEIGHTS, checkpoint.CONFIG):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def load(folder):
    return checkpoint.load(folder, torch.device("cpu"))


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.CONFIG])
def test_a_missing_or_truncated_file_is_named(folder, file):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{file} is damaged"):
        load(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        load(folder)


def test_weights_that_do_not_fit_are_refused(folder):
    path = folder / checkpoint.CONFIG
    content = json.loads(path.read_text())
    content["architecture"]["hidden"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "change", [{"model": "../evil"}, {"extra": 1}, {"architecture": {"hidden": "x"}}]
)
def test_a_config_of_another_shape_is_refused(folder, change):
    path = folder / checkpoint.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load(folder)
