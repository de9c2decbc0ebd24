import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import encoding
from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError
from tests.workspace import encode_text


def test_the_published_split_of_tiny_shakespeare(corpus_ids):
    lengths = {split: len(ids) for split, ids in corpus_ids.items()}
    assert lengths == {"train": 1_003_854, "validation": 55_770, "test": 55_770}
    assert corpus_ids["train"].numpy().dtype == np.uint8


def test_splits_are_the_text_in_its_order(tmp_path):
    text = "abcdefghij" * 10
    splits = encode_text(text, tmp_path, 0.8, 0.1)
    joined = np.concatenate([splits[split] for split in encoding.SPLITS])
    assert Vocabulary.load(tmp_path / "vocabulary.json").decode(joined) == text


def test_the_arrays_are_those_that_numpy_would_save(tmp_path):
    splits = encode_text("hello world " * 20, tmp_path, 0.8, 0.1)
    for split, ids in splits.items():
        np.save(tmp_path / "again.npy", np.array(ids))
        assert (tmp_path / "again.npy").read_bytes() == (tmp_path / f"{split}.npy").read_bytes()


def test_symbols_of_the_holdout_alone_are_in_the_vocabulary_and_named(tmp_path, settings):
    source = tmp_path / "text"
    source.write_text("a" * 90 + "b" * 5 + "z" * 5)
    found = encoding.scan(source)
    assert found.vocabulary.symbols == "abz"
    lengths = encoding.lengths(found.characters, settings.split)
    assert lengths == {"train": 90, "validation": 5, "test": 5}
    assert encoding.encode(source, found.vocabulary, lengths, tmp_path) == "bz"


SCRIPTS = ["línea\r\nlínea\r", "中文字符測試", "\ufeffmark", "\0nul", "a😀b"]


def read(path):
    return "".join(chr(point) for points in encoding.read(path) for point in points)


@pytest.mark.parametrize("text", SCRIPTS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 22])
def test_every_character_is_kept_as_it_is_wherever_a_chunk_ends(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(encoding, "CHUNK_BYTES", chunk)
    (tmp_path / "text").write_bytes(text.encode())
    assert read(tmp_path / "text") == text
    splits = encode_text(text, tmp_path, 0.5, 0.3)
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.json")
    assert "".join(vocabulary.decode(ids) for ids in splits.values()) == text


@given(st.binary(max_size=40), st.integers(1, 7))
def test_invalid_utf8_is_named_with_its_offset(tmp_path_factory, content, chunk):
    path = tmp_path_factory.mktemp("binary") / "text"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "CHUNK_BYTES", chunk)
        try:
            expected = content.decode()
        except UnicodeDecodeError as error:
            byte = content[error.start]
            with pytest.raises(UserError, match=f"byte 0x{byte:02x} at offset {error.start} "):
                read(path)
        else:
            assert read(path) == expected


def test_an_empty_text_and_a_missing_one_are_refused(tmp_path):
    path = tmp_path / "text"
    with pytest.raises(UserError, match="cannot be read"):
        encoding.scan(path)
    path.touch()
    with pytest.raises(UserError, match="is empty"):
        encoding.scan(path)


@pytest.mark.parametrize("now", ["abcabcabca", "abcabcab", "abcabcabx"])
def test_a_text_that_changes_meanwhile_leaves_no_split_of_two_texts(tmp_path, settings, now):
    source = tmp_path / "text"
    source.write_text("abcabcabc")
    found = encoding.scan(source)
    source.write_text(now)
    lengths = encoding.lengths(found.characters, settings.split)
    with pytest.raises(UserError, match=r"changed while it was read|not in the vocabulary"):
        encoding.encode(source, found.vocabulary, lengths, tmp_path)
    assert not (tmp_path / "vocabulary.json").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_an_interrupted_encoding_leaves_whole_files_only(tmp_path, settings):
    source = tmp_path / "text"
    source.write_text("abc" * 1000)
    found = encoding.scan(source)
    lengths = encoding.lengths(found.characters, settings.split)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoding.encode(source, found.vocabulary, lengths, tmp_path / "encoded", interrupt)
    for path in (tmp_path / "encoded").iterdir():
        assert path.name in ("train.npy", "validation.npy", "test.npy")
        assert len(np.load(path)) == lengths[path.stem]


@pytest.mark.parametrize(
    ("name", "split", "enough"),
    [("gpt", "train", 65), ("lstm", "train", 33 * 64), ("gpt", "test", 65)],
)
def test_short_splits_are_refused_with_the_numbers(settings, name, split, enough):
    lengths = dict.fromkeys(encoding.SPLITS, 10_000)
    run = settings.runs[name]
    encoding.check_lengths(lengths | {split: enough}, run)
    with pytest.raises(UserError, match=f"{split} split has {enough - 1:,} characters, but {name}"):
        encoding.check_lengths(lengths | {split: enough - 1}, run)


def test_missing_and_damaged_ids_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.npy is missing"):
        encoding.load_split(tmp_path, "train")
    (tmp_path / "train.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match=r"train\.npy is damaged"):
        encoding.load_split(tmp_path, "train")


def test_a_flipped_bit_of_the_ids_is_found(tmp_path):
    encode_text("To be, or not to be, that is the question.", tmp_path)
    path = tmp_path / "train.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.npy is damaged \(its SHA-256"):
        encoding.load_split(tmp_path, "train")
    (tmp_path / encoding.DIGESTS).write_text("[]")
    with pytest.raises(UserError, match=r"validation\.npy is damaged"):
        encoding.load_split(tmp_path, "validation")


def test_what_only_counts_needs_a_character_of_each_split(settings):
    lengths = dict.fromkeys(encoding.SPLITS, 1)
    encoding.check_lengths(lengths, settings.runs["kneser_ney"])
    with pytest.raises(UserError, match=r"test split has 0 characters, but kneser_ney needs at"):
        encoding.check_lengths(lengths | {"test": 0}, settings.runs["kneser_ney"])


def test_a_model_of_another_text_is_refused(tmp_path):
    Vocabulary("abc").save(tmp_path / "vocabulary.json")
    encoding.check_symbols("lstm", "abc", tmp_path)
    with pytest.raises(UserError, match="models/lstm is of another text than"):
        encoding.check_symbols("lstm", "abd", tmp_path)
