import numpy as np
import pytest

from charlm import encoding
from charlm.errors import UserError


def test_the_published_split_of_tiny_shakespeare(corpus_text):
    encoded = encoding.encode(corpus_text, 0.90, 0.05)
    lengths = {split: len(ids) for split, ids in encoded.splits.items()}
    assert lengths == {"train": 1_003_854, "validation": 55_770, "test": 55_770}
    assert encoded.unseen == ""
    assert encoded.splits["train"].dtype == np.uint8


def test_splits_are_the_text_in_its_order():
    text = "abcdefghij" * 10
    encoded = encoding.encode(text, 0.8, 0.1)
    joined = np.concatenate([encoded.splits[split] for split in encoding.SPLITS])
    assert encoded.vocabulary.decode(joined) == text


def test_symbols_of_the_holdout_alone_are_in_the_vocabulary_and_named():
    encoded = encoding.encode("a" * 90 + "b" * 5 + "z" * 5, 0.9, 0.05)
    assert encoded.vocabulary.symbols == "abz"
    assert encoded.unseen == "bz"


@pytest.mark.parametrize("text", ["línea\r\nlínea\r", "中文字符測試", "\ufeffmark", "\0nul"])
def test_every_character_is_kept_as_it_is(tmp_path, text):
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    assert encoding.read_text(path) == text


def test_invalid_utf8_is_named_with_its_offset(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"good\xffbad")
    with pytest.raises(UserError, match="byte 0xff at offset 4"):
        encoding.read_text(path)


def test_an_empty_text_is_refused(tmp_path):
    path = tmp_path / "text"
    path.touch()
    with pytest.raises(UserError, match="is empty"):
        encoding.read_text(path)


@pytest.mark.parametrize(
    ("name", "split", "enough"),
    [("gpt", "train", 65), ("lstm", "train", 17 * 32), ("gpt", "test", 65)],
)
def test_short_splits_are_refused_with_the_numbers(settings, name, split, enough):
    lengths = dict.fromkeys(encoding.SPLITS, 10_000)
    entry = settings.models[name]
    encoding.check_lengths(lengths | {split: enough}, entry)
    with pytest.raises(UserError, match=f"{split} split has {enough - 1} characters, but {name}"):
        encoding.check_lengths(lengths | {split: enough - 1}, entry)


def test_what_is_saved_is_loaded(tmp_path):
    encoded = encoding.encode("hello world " * 20, 0.8, 0.1)
    encoding.save(encoded, tmp_path)
    for split, ids in encoded.splits.items():
        loaded = encoding.load_split(tmp_path, split)
        assert loaded.dtype == ids.dtype
        assert loaded.tolist() == ids.tolist()


def test_missing_and_damaged_ids_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.npy is missing"):
        encoding.load_split(tmp_path, "train")
    (tmp_path / "train.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match=r"train\.npy is damaged"):
        encoding.load_split(tmp_path, "train")
