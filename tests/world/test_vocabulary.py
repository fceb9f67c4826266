from collections import Counter

import pytest

from volta_switch.data.tokenizer import Tokenizer
from volta_switch.world.phrases import Lexicon, content_words
from volta_switch.world.spec import WorldSpec


def texts(drawn):
    yield from (caption.words() for entry in drawn.retrieval["test"] for caption in entry.captions)
    yield from (phrase.words() for entry in drawn.refer["test"] for _, phrase in entry.expressions)
    yield from (question.words() for entry in drawn.vqa["test"] for question, _, _ in entry.questions)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_content_word_takes_one_piece_more_than_the_text_depth(depth):
    lexicon = Lexicon(WorldSpec(text_depth=depth))
    assert {lexicon.length(word) for word in content_words()} == {depth + 1}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_piece_gives_its_word_away(depth):
    lexicon = Lexicon(WorldSpec(text_depth=depth))
    pieces = [lexicon.pieces(spelled) for spelled in lexicon.spelling.values()]
    assert len({tuple(word) for word in pieces}) == len(pieces)
    for place in range(depth + 1):
        assert min(Counter(word[place] for word in pieces).values()) > 1


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_every_text_is_made_of_known_pieces(drawn, depth):
    lexicon = Lexicon(WorldSpec(text_depth=depth))
    vocabulary = lexicon.vocabulary()
    assert vocabulary[0] == "[PAD]" and len(set(vocabulary)) == len(vocabulary)
    for text in texts(drawn):
        pieces = lexicon.pieces(lexicon.spell(text))
        assert "[UNK]" not in pieces and set(pieces) <= set(vocabulary)


@pytest.mark.parametrize("depth", [0, 2])
def test_the_written_vocabulary_splits_texts_as_the_lexicon_does(drawn, depth, tmp_path):
    lexicon = Lexicon(WorldSpec(text_depth=depth))
    lexicon.write(tmp_path / "bert-world")
    tokenizer = Tokenizer(tmp_path / "bert-world")
    vocabulary = lexicon.vocabulary()
    for text in list(texts(drawn))[:50]:
        spelled = lexicon.spell(text)
        ids = tokenizer.encode(spelled, 200)
        assert [vocabulary[index] for index in ids] == ["[CLS]", *lexicon.pieces(spelled), "[SEP]"]


def test_the_plural_of_a_spelled_word_is_its_singular_and_a_suffix():
    lexicon = Lexicon(WorldSpec(text_depth=1))
    assert lexicon.pieces(lexicon.spell("cubes")) == [*lexicon.pieces(lexicon.spell("cube")), "##s"]


def test_the_seed_decides_the_spelling():
    first, again, other = (Lexicon(WorldSpec(text_depth=2, seed=seed)).spelling for seed in (0, 0, 1))
    assert first == again != other
