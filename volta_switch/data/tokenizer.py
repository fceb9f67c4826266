"""WordPiece token ids of captions, questions and expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volta_switch.checksums import read_recorded
from volta_switch.errors import UserError
from volta_switch.hub import find_vocabulary

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TokenLists:
    """Token ids of many texts in two flat arrays (a list of lists of 2.7 million captions would take gigabytes)."""

    def __init__(self, lists: Iterable[Sequence[int]]) -> None:
        arrays = [np.asarray(ids, dtype=np.int32) for ids in lists]
        self.lengths = np.array([len(ids) for ids in arrays], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._ids = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the ids of one text: (T,) int64, a fresh array."""
        end = self._ends[index]
        return self._ids[end - self.lengths[index] : end].astype(np.int64)


@dataclass(frozen=True)
class Unread:
    """What a model does not read of a text: words that are unknown to it, and what is cut off at its end."""

    unknown: tuple[str, ...]
    """Words and marks, some piece of which is [UNK]."""
    words: int
    """Of the text, marks among them."""
    read: int
    """Of these, the first so many are read whole."""

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.unknown) or self.read < self.words

    def __str__(self) -> str:
        """Says it in a sentence, where there is anything to say."""
        parts = [f"it does not know {', '.join(self.unknown)}"] if self.unknown else []
        parts += [f"it reads the first {self.read} of {self.words} words and marks"] if self.read < self.words else []
        return f"not all of this is read by the model: {'; '.join(parts)}" if parts else ""


class Tokenizer:
    """BERT's WordPiece tokenizer over a vocab.txt.

    Args:
        vocab: a directory that holds vocab.txt, the file itself, or the name of a model on the Hugging Face hub.

    Raises:
        UserError: there is no vocabulary, or one that ``read_vocabulary`` refuses.
    """

    def __init__(self, vocab: str | Path, do_lower_case: bool = True) -> None:
        path = find_vocabulary(vocab)
        self._set(read_vocabulary(path), str(path), do_lower_case)

    @classmethod
    def of_content(cls, content: bytes, source: str, do_lower_case: bool = True) -> Tokenizer:
        """Makes one of what a vocab.txt holds; ``source`` is named where it is none."""
        self = cls.__new__(cls)
        self._set(parse_vocabulary(content, source), source, do_lower_case)
        return self

    def _set(self, ids: dict[str, int], source: str, do_lower_case: bool) -> None:
        from tokenizers import BertWordPieceTokenizer  # here, not above: token ids can be had without it

        self.source, self._ids = source, ids
        self._wordpiece = BertWordPieceTokenizer(ids, lowercase=do_lower_case)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in _SPECIAL)
        self.vocab_size = len(ids)

    def to_json(self) -> str:
        """Returns what ``tokenizer.json`` holds: the same tokenizer for Hugging Face's libraries."""
        return self._wordpiece.to_str()

    def to_text(self) -> str:
        """Returns what ``vocab.txt`` holds."""
        return "".join(f"{token}\n" for token in self._ids)

    def encode(self, text: str, max_length: int) -> list[int]:
        """Returns [CLS] pieces [SEP], the pieces cut so that there are at most max_length ids."""
        return self._cut(self._wordpiece.encode(text).ids, max_length)

    def words(self, text: str, max_length: int) -> list[tuple[str, list[int]]]:
        """Returns the words of a text as they are written, each with the places of its pieces among ``encode``'s ids.

        A word of which nothing is left by the cut is left out.
        """
        encoding = self._wordpiece.encode(text)
        found: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids):
            if word is not None and place < max_length - 1:
                found.setdefault(word, []).append(place)
        ends = [(encoding.offsets[places[0]][0], encoding.offsets[places[-1]][1]) for places in found.values()]
        return [(text[start:end], places) for (start, end), places in zip(ends, found.values(), strict=True)]

    def unread(self, text: str, max_length: int) -> Unread:
        """Returns which words of a text are [UNK] to a model, and how many are behind the cut."""
        encoding = self._wordpiece.encode(text)
        every = self.words(text, len(encoding.ids) + 1)
        unknown = (word for word, places in every if self.unk_id in (encoding.ids[place] for place in places))
        whole = sum(places[-1] < max_length - 1 for _, places in every)
        return Unread(tuple(dict.fromkeys(unknown)), len(every), whole)

    def encode_all(self, texts: Sequence[str], max_length: int) -> TokenLists:
        """Encodes many texts at once, as ``encode`` does one."""
        return TokenLists(self._cut(encoding.ids, max_length) for encoding in self._wordpiece.encode_batch(list(texts)))

    def _cut(self, ids: list[int], max_length: int) -> list[int]:
        return ids if len(ids) <= max_length else [*ids[: max_length - 1], self.sep_id]


def read_vocabulary(path: Path) -> dict[str, int]:
    """Returns token ids by token, as ``parse_vocabulary``."""
    return parse_vocabulary(read_recorded(path), str(path))


def parse_vocabulary(content: bytes, path: str) -> dict[str, int]:
    """Returns token ids by token: the number of its line, from 0. Lines may end as Windows' do.

    Raises:
        UserError: the file is no UTF-8 text, lacks one of BERT's special tokens, or has an empty line or a token
            twice, after which the ids would not be those that the weights were made with.
    """
    expected = "expected a BERT vocabulary, a token a line"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); save it as UTF-8"
        ) from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if not text.strip():
        raise UserError(f"{path}: an empty file; {expected}")
    if any("\r" in line for line in lines):
        raise UserError(f"{path}: its lines end in a bare carriage return; save it with line feeds")
    ids: dict[str, int] = {}
    for number, token in enumerate(lines):
        if not token.strip():
            raise UserError(f"{path}: line {number + 1} is empty; {expected}: remove the line, or take the file anew")
        if token != token.strip(" \t"):
            raise UserError(
                f"{path}: line {number + 1}, {token!r}, begins or ends with a blank, so that no word is that token; "
                "remove the blank"
            )
        if token in ids:
            raise UserError(
                f"{path}: {token!r} stands in lines {ids[token] + 1} and {number + 1}; a token has one id: take the "
                "vocabulary that the model was made with"
            )
        ids[token] = number
    missing = [token for token in _SPECIAL if token not in ids]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing; {expected}")
    return ids


def check_vocab_size(tokenizer: Tokenizer, config_vocab_size: int, config_name: str = "the model's config") -> None:
    """Raises UserError unless the tokenizer and the model's word embedding have the same size."""
    if tokenizer.vocab_size != config_vocab_size:
        raise UserError(
            f"{tokenizer.source} has {tokenizer.vocab_size} tokens, {config_name} has vocab_size {config_vocab_size}; "
            "take the vocabulary that the model was made with (bert_model), or set vocab_size to the vocabulary's size"
        )
