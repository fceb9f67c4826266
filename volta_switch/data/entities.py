"""Flickr30k Entities: which words of a caption name which boxes of its image.

| file | content |
|---|---|
| ``<split>.txt`` | the images of a split, a number a line |
| ``Sentences/<image>.txt`` | a caption a line, phrases in brackets: ``[/EN#7/people A man] walks ...`` |
| ``Annotations/<image>.xml`` | boxes by an entity's number, in pixels from 1; an entity may have several, or none |

A phrase whose entity has no box (a whole scene, something that cannot be seen) is no sample, as in VOLTA.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from volta_switch.checksums import read_recorded, require_file
from volta_switch.errors import UserError

DATA_SET = "FlickrGrounding"  # what VOLTA's task file calls it
OPENING = "[/EN#"
EDGES = ("xmin", "ymin", "xmax", "ymax")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Phrase:
    """Words of a caption that name an entity.

    Attributes:
        entity: its number, as the files write it; "0" stands for what cannot be seen.
        first: the place of its first word in the caption, from 0.
        words: how many they are.
        kinds: of the entity: people, clothing, animals, ...
    """

    entity: str
    first: int
    words: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class EntityPhrase:
    """A phrase with the boxes of its entity: a sample of the ablation.

    Attributes:
        image_id: as the split's list has it.
        sentence: number of the caption in its image, from 0.
        words: of the whole caption.
        phrase: which of them name the entity.
        boxes: x1, y1, x2, y2 in pixels from 0.
    """

    image_id: str
    sentence: int
    words: tuple[str, ...]
    phrase: Phrase
    boxes: tuple[Box, ...]

    @property
    def text(self) -> str:
        """The words of the phrase."""
        return " ".join(self.words[self.phrase.first : self.phrase.first + self.phrase.words])


def load_entities(root: Path, split: str) -> list[EntityPhrase]:
    """Reads all phrases of a split that have boxes, in the order of the files.

    Raises:
        UserError: a file is missing or is none of Flickr30k Entities', an image is listed twice, or no phrase of the
            split has a box.
    """
    listed = root / f"{split}.txt"
    images = _text(listed, "list of images", "name a split of which a list lies there (--split)").split()
    again = [image for image, count in Counter(images).items() if count > 1]
    if again:
        raise UserError(f"{listed}: image {again[0]} is listed twice; list it once")
    found = [phrase for image in images for phrase in _phrases(root, image)]
    if not found:
        raise UserError(f"{listed}: no phrase of its {len(images)} images has a box; expected Flickr30k Entities")
    return found


def entities_digest(root: Path, split: str) -> str:
    """Returns the SHA-256 of all files that a split is read from, in their order; raises as ``load_entities``."""
    load_entities(root, split)
    listed = root / f"{split}.txt"
    digest = hashlib.sha256(listed.read_bytes())
    for image in listed.read_text(encoding="utf-8-sig").split():
        for path in (root / "Annotations" / f"{image}.xml", root / "Sentences" / f"{image}.txt"):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _phrases(root: Path, image: str) -> Iterator[EntityPhrase]:
    advice = "unpack Flickr30k Entities' annotations there (github.com/BryanPlummer/flickr30k_entities)"
    path = root / "Annotations" / f"{image}.xml"
    boxes = parse_annotation(_text(path, "annotation", advice), str(path))
    path = root / "Sentences" / f"{image}.txt"
    lines = [line for line in _text(path, "sentences", advice).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path}: holds no caption; copy the data set's own file again")
    for number, line in enumerate(lines):
        words, phrases = parse_sentence(line, f"{path}: line {number + 1}")
        for phrase in phrases:
            if phrase.entity in boxes:
                yield EntityPhrase(image, number, words, phrase, boxes[phrase.entity])


def _text(path: Path, what: str, advice: str) -> str:
    require_file(path, what, advice)
    try:
        return read_recorded(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def parse_sentence(line: str, place: str) -> tuple[tuple[str, ...], list[Phrase]]:
    """Takes the phrases out of a caption.

    Args:
        line: the caption, phrases in brackets.
        place: file and line, for messages.

    Returns:
        The words of the caption, and its phrases.

    Raises:
        UserError: brackets that do not pair off, an empty phrase, or one without a number.
    """
    words: list[str] = []
    phrases: list[Phrase] = []
    label, first = "", 0  # of the phrase that is open
    for token in line.split():
        if token.startswith("["):
            if label:
                raise UserError(f"{place}: the phrase of entity {label} is not closed before {token!r}; end it with ]")
            _, _, rest = token.partition(OPENING)
            entity = rest.partition("/")[0]
            if not token.startswith(OPENING) or not entity.isdigit() or token.endswith("]"):
                raise UserError(
                    f"{place}: {token!r} begins no phrase; expected {OPENING}<number>/<kind>, then its words"
                )
            label, first = rest, len(words)
        elif label and token.endswith("]"):
            words += [token[:-1]] if token != "]" else []
            if len(words) == first:
                raise UserError(f"{place}: the phrase of entity {label} has no words; write them before the bracket")
            entity, *named = label.split("/")
            phrases.append(Phrase(entity, first, len(words) - first, tuple(named)))
            label = ""
        else:
            words.append(token)
    if label:
        raise UserError(f"{place}: the phrase of entity {label} is not closed; end it with ]")
    return tuple(words), phrases


def parse_annotation(text: str, place: str) -> dict[str, tuple[Box, ...]]:
    """Reads the boxes of an image's entities.

    Args:
        text: of the XML file.
        place: the file, for messages.

    Returns:
        Entity -> its boxes in pixels from 0, one or more.

    Raises:
        UserError: it is no XML of this kind, defines entities of its own, or a box has no size.
    """
    if "<!" in text.replace("<!--", ""):  # definitions may grow without bounds; the data set has none
        raise UserError(f"{place}: has a definition (<!), which annotations do not need; take the data set's own file")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{place}: no XML ({error}); take the data set's own file") from None
    boxes: dict[str, list[Box]] = {}
    for named in tree.iter("object"):
        outline = named.find("bndbox")
        if outline is None:
            continue
        box = _box(outline, place)
        entities = [(name.text or "").strip() for name in named.iter("name")]
        if not all(entities) or not entities:
            raise UserError(f"{place}: a box has no entity (<name>); take the data set's own file")
        for entity in entities:
            boxes.setdefault(entity, []).append(box)
    return {entity: tuple(found) for entity, found in boxes.items()}


def _box(outline: ElementTree.Element, place: str) -> Box:
    texts = [(outline.findtext(edge) or "").strip() for edge in EDGES]
    try:
        x1, y1, x2, y2 = (int(text) - 1 for text in texts)
    except ValueError:
        raise UserError(
            f"{place}: a box is {', '.join(texts)}; expected four whole numbers, {' '.join(EDGES)}"
        ) from None
    if x2 < x1 or y2 < y1:
        raise UserError(
            f"{place}: a box is {', '.join(texts)}, which ends before it begins; expected {' '.join(EDGES)}"
        )
    return x1, y1, x2, y2
