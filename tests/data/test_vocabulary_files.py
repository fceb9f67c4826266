"""Vocabularies are read line by line, or refused in one line: another id for a word is another model."""

import pytest

from volta_switch import UserError
from volta_switch.data.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "##s", "schön"]


def vocabulary(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "vocab.txt"


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(WORDS),
        "\n".join(WORDS) + "\n",
        "\r\n".join(WORDS) + "\r\n",
        b"\xef\xbb\xbf" + "\n".join(WORDS).encode(),
    ],
    ids=["no last line feed", "plain", "Windows", "byte order mark"],
)
def test_ids_are_the_numbers_of_the_lines(tmp_path, content):
    made = Tokenizer(vocabulary(tmp_path, content))
    assert made.encode("a reds schön", 9) == [2, 5, 6, 7, 1, 3]  # lower case is without accents, as BERT's
    assert Tokenizer(vocabulary(tmp_path, content), do_lower_case=False).encode("schön", 9) == [2, 8, 3]
    assert (made.vocab_size, made.pad_id, made.mask_id) == (9, 0, 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "an empty file; expected a BERT vocabulary, a token a line"),
        ("\n\n", "an empty file"),
        ("\n".join(word for word in WORDS if word != "[SEP]"), r"\[SEP\] missing; expected a BERT vocabulary"),
        ("\n".join(WORDS).upper().replace("[", "<"), r"\[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] missing"),
        ("\r".join(WORDS), "its lines end in a bare carriage return; save it with line feeds"),
        ("\n".join(WORDS).encode("latin-1"), r"not UTF-8 text \(byte \d+ is 0xf6\); save it as UTF-8"),
        ("\n".join(WORDS).encode("utf-16"), r"not UTF-8 text \(byte 0 is 0xff\)"),
        ("\n".join([*WORDS, "red"]), "'red' stands in lines 7 and 10; a token has one id"),
        ("\n".join([*WORDS[:6], "", *WORDS[6:]]), "line 7 is empty"),
        ("\n".join(WORDS) + "\n \n", "line 10 is empty"),
    ],
)
def test_what_would_shift_ids_or_lacks_some_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=rf"vocab\.txt: {said}"):
        Tokenizer(vocabulary(tmp_path, content))
