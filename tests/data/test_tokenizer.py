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


def test_words_are_as_they_are_written_with_the_places_of_their_pieces(tokenizer) -> None:
    text = "A red  DOGs?"
    ids = tokenizer.encode(text, 20)
    assert tokenizer.words(text, 20) == [("A", [1]), ("red", [2]), ("DOGs", [3, 4]), ("?", [5])]
    assert [ids[place] for place in (3, 4)] == [8, 16]  # dog, ##s
    assert tokenizer.words(text, 5) == [("A", [1]), ("red", [2]), ("DOG", [3])]  # the other piece is cut off
    assert tokenizer.words("", 20) == []


def test_what_of_a_text_is_not_read_is_told(tokenizer) -> None:
    known = next(token for token in tokenizer.to_text().split() if token.isalpha() and len(token) > 3)
    assert not tokenizer.unread(f"{known} {known}", 20)
    found = tokenizer.unread(f"{known} ☃x {known} ☃x ☃ {known}", 6)
    assert found and found.unknown == ("☃x", "☃") and (found.words, found.read) == (6, 4)
    assert "it does not know ☃x, ☃; it reads the first 4 of 6 words and marks" in str(found)
    assert str(tokenizer.unread(f"{known} " * 9, 6)).endswith("by the model: it reads the first 4 of 9 words and marks")
    assert str(tokenizer.unread(known, 20)) == ""


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
