"""Flickr30k Entities' files are read as they are, in hand-written cases; bad ones are refused."""

import re

import pytest

from volta_switch import UserError
from volta_switch.data.entities import EntityPhrase, Phrase, load_entities, parse_annotation, parse_sentence

LINE = "[/EN#7/people/clothing Two men] talk to [/EN#0/notvisual who] [/EN#8/animals dogs] ."
WORDS = ("Two", "men", "talk", "to", "who", "dogs", ".")
XML = """<annotation><filename>36.jpg</filename><size><width>500</width><height>375</height><depth>3</depth></size>
<!-- boxes by hand -->
<object><name>7</name><name>9</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object>
<object><name>7</name><bndbox><xmin>31</xmin><ymin>32</ymin><xmax>41</xmax><ymax>52</ymax></bndbox></object>
<object><name>8</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"""


def test_phrases_are_taken_out_of_a_caption():
    words, phrases = parse_sentence(LINE, "here")
    assert words == WORDS
    assert phrases == [
        Phrase("7", 0, 2, ("people", "clothing")),
        Phrase("0", 4, 1, ("notvisual",)),
        Phrase("8", 5, 1, ("animals",)),
    ]


def test_an_entity_may_have_several_boxes_and_a_box_several_entities():
    assert parse_annotation(XML, "here") == {
        "7": ((0, 1, 10, 21), (30, 31, 40, 51)),
        "9": ((0, 1, 10, 21),),
    }


@pytest.mark.parametrize(("line", "said"), [
    ("a [/EN#7/people man", "the phrase of entity 7/people is not closed; end it with ]"),
    ("[/EN#7/people ] x", "the phrase of entity 7/people has no words"),
    ("[/EN#x/people man]", "'[/EN#x/people' begins no phrase"),
    ("[/EN#7/people A man [/EN#9/scene home]", "the phrase of entity 7/people is not closed before '[/EN#9/scene'"),
    ("[man]", "'[man]' begins no phrase; expected [/EN#<number>/<kind>"),
])  # fmt: skip
def test_a_damaged_caption_is_refused(line, said):
    with pytest.raises(UserError, match=re.escape(f"36.txt: line 2: {said}")):
        parse_sentence(line, "36.txt: line 2")


@pytest.mark.parametrize(("old", "new", "said"), [
    ("</annotation>", "", "36.xml: no XML"),
    ("<annotation>", "<!DOCTYPE a [<!ENTITY b 'b'>]><annotation>", "36.xml: has a definition"),
    ("<xmax>11</xmax>", "<xmax>11.5</xmax>", "36.xml: a box is 1, 2, 11.5, 22; expected four whole numbers"),
    ("<xmax>11</xmax>", "", "36.xml: a box is 1, 2, , 22; expected four whole numbers"),
    ("<name>7</name>", "<name> </name>", "36.xml: a box has no entity"),
    ("</annotation>", "<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
     "</annotation>", "36.xml: a box has no entity"),
    ("<ymax>22</ymax>", "<ymax>1</ymax>", "36.xml: a box is 1, 2, 11, 1, which ends before it begins"),
])  # fmt: skip
def test_a_damaged_annotation_is_refused(old, new, said):
    assert old in XML
    with pytest.raises(UserError, match=rf"^{said}"):
        parse_annotation(XML.replace(old, new, 1), "36.xml")


@pytest.fixture
def written(tmp_path):
    """The files of two images; the second has nothing but a scene."""
    for folder in ("Annotations", "Sentences"):
        (tmp_path / folder).mkdir()
    (tmp_path / "val.txt").write_text("36\n37\n")
    (tmp_path / "Sentences/36.txt").write_text(f"no phrase here\n\n{LINE}\n")
    (tmp_path / "Annotations/36.xml").write_text(XML)
    (tmp_path / "Sentences/37.txt").write_text("[/EN#8/scene a street]\n")
    (tmp_path / "Annotations/37.xml").write_text("<annotation></annotation>")
    return tmp_path


def test_phrases_without_boxes_are_no_samples(written):
    boxes = ((0, 1, 10, 21), (30, 31, 40, 51))
    (sample,) = load_entities(written, "val")
    assert sample == EntityPhrase("36", 1, WORDS, Phrase("7", 0, 2, ("people", "clothing")), boxes)
    assert sample.text == "Two men"


@pytest.mark.parametrize(("file", "content", "said"), [
    ("val.txt", None, "val.txt: no such list of images; name a split"),
    ("val.txt", "36\n36\n", "val.txt: image 36 is listed twice"),
    ("val.txt", "37\n", "val.txt: no phrase of its 1 images has a box"),
    ("val.txt", "", "val.txt: no phrase of its 0 images has a box"),
    ("Annotations/36.xml", None, "36.xml: no such annotation; unpack Flickr30k Entities"),
    ("Sentences/36.txt", None, "36.txt: no such sentences; unpack Flickr30k Entities"),
    ("Sentences/36.txt", "\n", "36.txt: holds no caption; copy"),
    ("Sentences/36.txt", b"\xff", "36.txt: not UTF-8 text"),
    ("Sentences/36.txt", "\n[/EN#7/people a man", "36.txt: line 1: the phrase of entity 7/people is not closed"),
])  # fmt: skip
def test_missing_and_damaged_files_are_told(written, file, content, said):
    path = written / file
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        load_entities(written, "val")
