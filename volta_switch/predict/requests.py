"""What is asked: texts about images, of a command line or of a file of JSON lines.

A line of such a file is an object:

| key | value |
|---|---|
| ``text`` | the question, expression, statement or hypothesis |
| ``texts`` | of retrieval: the captions that are ranked for one image |
| ``image`` | a picture's path; with features, the id of an image in their file |
| ``images`` | NLVR2's two; of retrieval: the images that are ranked for one text |
| ``features`` | the file of features; without it that of ``--features`` |
| ``id`` | what the answer is called; its line has it, too |

Relative paths begin in the working directory, as those of a command line do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data.files.json_files import numbered_lines
from volta_switch.data.image_ids import id_text
from volta_switch.errors import UserError, unknown_key
from volta_switch.files import parse_json, require_file
from volta_switch.model.predictions import Question
from volta_switch.ranges import shown

KEYS = ("id", "text", "texts", "image", "images", "features")


@dataclass(frozen=True)
class Request:
    """Texts about images that are answered together.

    Attributes:
        texts: one, or the captions that are ranked for an image.
        images: one, the two of a pair, or those that are ranked for a text: paths, or ids of a feature file.
        features: the feature file; "": the images are pictures.
        name: the ``id`` of its line; None where it has none.
        source: what errors name: "asked.jsonl, line 3", or "" of a command line.
    """

    texts: tuple[str, ...]
    images: tuple[str, ...]
    features: str = ""
    name: str | int | None = None
    source: str = ""

    def pairs(self, question: Question) -> list[tuple[str, tuple[str, ...]]]:
        """Returns each text with its images, as the head wants them."""
        if question.images > 1:
            return [(text, self.images) for text in self.texts]
        return [(text, (image,)) for text in self.texts for image in self.images]

    def check(self, question: Question) -> None:
        """Raises UserError where the head answers something else than so many texts about so many images."""
        wanted = question.images
        if question.compares:
            fits = min(len(self.texts), len(self.images)) == 1
            expected = "one image and any number of texts, or one text and any number of images"
        else:
            fits = (len(self.texts), len(self.images)) == (1, wanted)
            expected = "one text and " + ("one image" if wanted == 1 else f"{wanted} images")
        if not fits:
            counts = f"{len(self.texts)} texts and {len(self.images)} images"
            raise self.refusal(f"{counts}; a model with the head {question.kind} takes {expected}")

    def refusal(self, problem: str) -> UserError:
        """Returns an error that names where the request stands."""
        return UserError(f"{self.source}: {problem}" if self.source else problem)


def requests_of(texts: Sequence[str], images: Sequence[str], features: str, question: Question) -> list[Request]:
    """Returns what a command line asks: texts and images that are ranked are one request, others one for each text.

    Raises:
        UserError: the head takes another number of images.
    """
    if question.compares:
        requests = [Request(tuple(texts), tuple(images), features)]
    elif question.images == 1 and len(texts) == 1:
        requests = [Request((texts[0],), (image,), features) for image in images]
    else:
        requests = [Request((text,), tuple(images), features) for text in texts]
    for request in requests:
        request.check(question)
    return requests


def read_requests(path: Path, features: str, question: Question) -> list[Request]:
    """Reads a file of JSON lines, blank ones left out.

    Args:
        path: the file.
        features: the feature file of lines that name none; "": their images are pictures.
        question: the head's.

    Raises:
        UserError: it cannot be read, has no line, or a line is not as the module says or asks what the head does not
            answer; the line is named.
    """
    require_file(path, "file of JSON lines", "check the path")
    requests = []
    for number, line in numbered_lines(path):
        source = f"{path}, line {number}"
        try:
            request = _request(parse_json(line), features, source)
        except ValueError as error:
            raise UserError(f"{source}: {error}; repair or remove it") from None
        request.check(question)
        requests.append(request)
    if not requests:
        raise UserError(f"{path}: has no line; expected a JSON object for each text and image")
    return requests


def _request(line: Any, features: str, source: str) -> Request:
    """Returns what a line asks; ValueError says what is wrong with it."""
    if not isinstance(line, Mapping):
        raise ValueError(f"{shown(line)} instead of an object with text and image")
    for key in line.keys() - set(KEYS):
        raise ValueError(unknown_key(key, KEYS))
    texts = _values(line, "text", "texts")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a text is {shown(text)}, expected a text")
    try:
        images = tuple(id_text(image) for image in _values(line, "image", "images"))
        own = id_text(line.get("features", features))
    except TypeError as error:
        raise ValueError(str(error)) from None
    name = line.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise ValueError(f"id is {shown(name)}, expected a text or a whole number")
    return Request(texts, images, own, name, source)


def _values(line: Mapping[str, Any], one: str, many: str) -> tuple[Any, ...]:
    """Returns what a line has under one of two keys, of which the second holds a list."""
    if (one in line) == (many in line):
        raise ValueError(f"expected {one} or {many}, found {'both' if one in line else 'neither'}")
    if one in line:
        return (line[one],)
    if not isinstance(line[many], list) or not line[many]:
        raise ValueError(f"{many} is {shown(line[many])}, expected a list of one or more")
    return tuple(line[many])
