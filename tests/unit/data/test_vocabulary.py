import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.vocabulary import Vocabulary
from charlm.errors import UserError


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_decoding_undoes_encoding_for_any_script(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert ids.dtype == vocabulary.dtype
    assert vocabulary.symbols == "".join(sorted(set(text)))


def test_the_documents_encoding_check(corpus_text):
    vocabulary = Vocabulary.of(corpus_text)
    assert len(vocabulary) == 65
    assert vocabulary.encode("hii there!").tolist() == [46, 47, 47, 1, 58, 46, 43, 56, 43, 2]
    assert vocabulary.decode([46, 47, 47, 1, 58, 46, 43, 56, 43, 2]) == "hii there!"


def test_more_than_256_symbols_take_16_bits():
    assert Vocabulary("".join(map(chr, range(256)))).dtype == np.uint8
    wide = Vocabulary("".join(map(chr, range(257))))
    assert wide.dtype == np.uint16
    assert wide.encode(chr(256)).tolist() == [256]


def test_an_unknown_symbol_is_named_with_its_position():
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 2"):
        Vocabulary("ab").encode("abé")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("abé", ", which has 'e'"),
        ("A", ", which has 'a'"),
        ("a\\nb", r"; a shell writes a line end as \$'\\n'"),
        ("漢", ""),
    ],
)
def test_what_may_have_been_meant_is_said_and_the_symbols_are_counted(text, hint):
    message = rf"is not in the vocabulary of 4 symbols{hint}$"
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary("\nabe").encode(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("symbols", ["ba", "aa"])
def test_symbols_are_sorted_and_distinct(symbols):
    with pytest.raises(UserError, match="code point order"):
        Vocabulary(symbols)


def test_save_and_load(tmp_path):
    Vocabulary("\n\r é\u4e2d").save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json").symbols == "\n\r é\u4e2d"


@pytest.mark.parametrize("content", ["", "[]", '{"symbols": 3}', "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"v\.json is damaged"):
        Vocabulary.load(path)


def test_bytes_of_ids_are_utf8_lengths():
    assert Vocabulary("aé中😀").bytes_of_ids.tolist() == [1, 2, 3, 4]
