from __future__ import annotations

import numpy as np
import pytest

from volta_switch.data.tokenizer import Tokenizer, TokenLists, check_vocab_size
from volta_switch.errors import UserError


def test_text_stands_between_cls_and_sep(tokenizer) -> None:
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert (tokenizer.pad_id, tokenizer.unk_id, cls, sep, tokenizer.mask_id) == (0, 1, 2, 3, 4)
    assert tokenizer.encode("a red DOGs unknown", 20) == [cls, 14, 5, 8, 16, tokenizer.unk_id, sep]


def test_long_text_is_cut_before_its_sep(tokenizer) -> None:
    assert tokenizer.encode("red blue green dog", 4) == [tokenizer.cls_id, 5, 6, tokenizer.sep_id]


def test_case_is_kept_when_told(tokenizer) -> None:
    cased = Tokenizer(tokenizer.source, do_lower_case=False)
    assert cased.encode("dog Dog", 9)[1:-1] == [8, cased.unk_id]


def test_many_texts_are_encoded_as_each_alone(tokenizer) -> None:
    texts = ["a dog", "", "the red house near a tree"]
    lists = tokenizer.encode_all(texts, 6)
    assert [lists[i].tolist() for i in range(3)] == [tokenizer.encode(text, 6) for text in texts]
    assert lists.lengths.tolist() == [4, 2, 6] and lists[0].dtype == np.int64


def test_an_item_of_token_lists_can_be_written_into() -> None:
    lists = TokenLists([[1, 2], [3]])
    lists[0][:] = 9
    assert lists[0].tolist() == [1, 2] and len(TokenLists([])) == 0


def test_a_vocabulary_of_another_size_states_both_sizes(tokenizer) -> None:
    check_vocab_size(tokenizer, 19)
    for size in (18, 30522):
        with pytest.raises(UserError, match=rf"vocab\.txt has 19 tokens, config/x\.json has vocab_size {size}"):
            check_vocab_size(tokenizer, size, "config/x.json")


def test_a_missing_vocabulary_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"vocab\.txt: no vocabulary there"):
        Tokenizer(tmp_path)


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ndog\n")
    with pytest.raises(UserError, match=r"\[MASK\] missing"):
        Tokenizer(tmp_path)


def test_a_hub_name_that_cannot_be_fetched_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no-such-bert: neither a folder with vocab\.txt .*Offline.*FOLDER") as error:
        Tokenizer("no-such-bert")
    assert "\n" not in str(error.value)


SOME = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\ncafé\n"
NONE = {
    "empty": (b"", "missing"),
    "without [SEP]": (SOME.replace("[SEP]\n", "").encode(), r"\[SEP\] missing"),
    "a word twice": (f"{SOME}dog\n".encode(), r"'dog' stands in lines 6 and 8"),
    "Latin-1": (SOME.encode("latin-1"), "not UTF-8 text .* at byte 38"),
    "two bytes a letter": (SOME.encode("utf-16"), "not UTF-8 text"),
    "all in one line": (SOME.replace("\n", "\r").encode(), r"\[PAD\], .*missing"),
    "JSON": (b'{"[PAD]": 0}', "missing"),
}


@pytest.mark.parametrize("what", NONE)
def test_a_file_that_is_no_vocabulary_is_refused_in_one_line(tmp_path, what) -> None:
    content, said = NONE[what]
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        Tokenizer(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / "vocab.txt") in str(error.value)


def test_line_ends_of_windows_change_no_id(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_bytes(SOME.encode())
    expected = Tokenizer(tmp_path).encode("a dog", 5)
    (tmp_path / "vocab.txt").write_bytes(SOME.replace("\n", "\r\n").encode())
    assert Tokenizer(tmp_path).encode("a dog", 5) == expected == [2, 1, 5, 3]
