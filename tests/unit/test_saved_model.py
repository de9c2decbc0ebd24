import hashlib
import json
import random
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm import models, saved_model
from charlm.errors import UserError
from tests import zoo
from tests.robustness.test_fuzz import refusal
from tests.zoo import build


def config(name):
    return zoo.config(name, "abc", 32)


@pytest.fixture
def folder(tmp_path):
    saved_model.save(tmp_path, config("lstm").build(), config("lstm"))
    return tmp_path


@pytest.mark.parametrize("name", models.names())
def test_what_is_saved_is_loaded(tmp_path, name):
    model, _ = build(name, 3, 32)
    saved_model.save(tmp_path, model, config(name))
    loaded, read = saved_model.load(tmp_path, torch.device("cpu"))
    assert read == config(name)
    assert not loaded.training
    ids_BT = torch.randint(3, (2, 32))
    assert torch.equal(model(ids_BT)[0], loaded(ids_BT)[0])


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = config("gpt").build()
    for name in "ab":
        saved_model.save(tmp_path / name, model, config("gpt"))
    for file in (saved_model.WEIGHTS, saved_model.CONFIG):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def load(folder):
    return saved_model.load(folder, torch.device("cpu"))


@pytest.mark.parametrize("file", [saved_model.WEIGHTS, saved_model.CONFIG])
def test_a_missing_or_truncated_file_is_named(folder, file):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{file} is damaged"):
        load(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        load(folder)


def test_weights_that_do_not_fit_are_refused(folder):
    path = folder / saved_model.CONFIG
    content = json.loads(path.read_text())
    content["architecture"]["hidden"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "change", [{"model": "../evil"}, {"extra": 1}, {"architecture": {"hidden": "x"}}]
)
def test_a_config_of_another_shape_is_refused(folder, change):
    path = folder / saved_model.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load(folder)


def sealed(folder, content):
    """Write weights that somebody made up, and the digest that belongs to them."""
    (folder / saved_model.WEIGHTS).write_bytes(content)
    path = folder / saved_model.CONFIG
    digest = {saved_model.DIGEST: hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(json.loads(path.read_text()) | digest))


def test_any_flipped_bit_is_found(folder):
    whole = (folder / saved_model.WEIGHTS).read_bytes()
    chance = random.Random(1)
    for _ in range(60):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        content = bytearray(whole)
        content[place] ^= 1 << bit
        (folder / saved_model.WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.safetensors (is damaged|does not fit)"):
            load(folder)


def test_a_header_that_promises_too_much_is_refused(folder):
    whole = (folder / saved_model.WEIGHTS).read_bytes()
    for size in (2**63, 2**40, len(whole), 0):
        sealed(folder, struct.pack("<Q", size) + whole[8:])
        with pytest.raises(UserError, match="is damaged"):
            load(folder)


def test_missing_additional_and_misshapen_tensors_are_refused(folder):
    tensors = safetensors.torch.load((folder / saved_model.WEIGHTS).read_bytes())
    first = next(iter(tensors))
    for changed in (
        {name: tensor for name, tensor in tensors.items() if name != first},
        tensors | {"../../evil": torch.zeros(1)},
        tensors | {first: torch.zeros(2, 2)},
    ):
        sealed(folder, safetensors.torch.save(changed))
        with pytest.raises(UserError, match=r"does not fit config\.json"):
            load(folder)


ODD = [
    *(None, True, -1, 0, 1, 1.5, 10**6, 10**9, 10**12, 10**30, 1e300, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "\0", "\ud800", "ba", "aab", "9" * 5000, "lstm", "mixture"),
    *([], [1], {}, {"a": 1}, [[[]]], {"members": [{"model": "../x"}]}),
]
KEYS = [*saved_model.Config.__dataclass_fields__, saved_model.DIGEST, "extra", "../x", ""]
SIZES = list(config("lstm").architecture)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), max_size=2),
    st.dictionaries(st.sampled_from([*SIZES, "extra"]), st.sampled_from(ODD), max_size=2),
)
def test_any_config_is_loaded_or_refused_in_one_line(tmp_path_factory, changes, sizes):
    folder = made(tmp_path_factory)
    path = folder / saved_model.CONFIG
    content = json.loads(path.read_text())
    content["architecture"] |= sizes
    path.write_bytes(json.dumps(content | changes).encode())
    loaded_or_refused(folder)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "3", '"x"', "[]", "{}", "{", '{"model": 1}', "\0", "NaN"),
        *("[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"block": ' + "9" * 5000 + "}"),
    ],
)
def test_any_text_as_config_is_refused_in_one_line(folder, text):
    (folder / saved_model.CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*config\.json is damaged[^\n]*$"):
        load(folder)


@settings(max_examples=100)
@given(st.data())
def test_any_weights_are_loaded_or_refused_in_one_line(tmp_path_factory, data):
    """Header and tensors as nobody writes them, with the digest that belongs to them."""
    folder = made(tmp_path_factory)
    whole = (folder / saved_model.WEIGHTS).read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    name = data.draw(st.sampled_from(list(header)))
    key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
    odd = [*ODD, [-1, 5], [2**62, 2**62], [5, 1], [0, 10**18], "F64", "I8", "BOOL", "F8_E4M3"]
    value = data.draw(st.sampled_from(odd))
    action = data.draw(st.sampled_from(["change", "rename", "drop", "bytes"]))
    if action == "change":
        header[name] = {**header[name], key: value}
    elif action != "bytes":
        entry = header.pop(name)
        if action == "rename":
            header[
                data.draw(st.sampled_from(["../../evil", "", "\0", "/etc/passwd", "x" * 999]))
            ] = entry
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text)] * 5 + [0, 1, 2**31, 2**63, 2**64 - 1]))
    content = struct.pack("<Q", length) + text + whole[8 + size :]
    if action == "bytes":
        content = data.draw(st.binary(max_size=64)) + whole[data.draw(st.integers(0, len(whole))) :]
    sealed(folder, content)
    loaded_or_refused(folder)


def made(factory):
    """Return a folder with a model, in a place of its own."""
    folder = factory.mktemp("made")
    saved_model.save(folder, config("lstm").build(), config("lstm"))
    return folder


def loaded_or_refused(folder):
    said = refusal(load, folder)
    assert "\n" not in said
    assert len(said) < 1000
    assert not said or said.startswith(str(folder))
