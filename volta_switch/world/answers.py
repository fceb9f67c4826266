"""One picture of several scenes, each with a text about it, what is right and what a model answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from volta_switch.world.render import INK, draw_objects
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH

RIGHT, WRONG = (0, 125, 70), (200, 40, 40)
COLUMNS = 3
GAP, LINE, HEAD, TEXT = 24, 22, 96, 17  # pixels: between panels, of a line, of the title; of letters
LINES = 4  # under a scene
MARGIN = 5  # pixels between a box and its frame

Box = tuple[float, ...]  # x1, y1, x2, y2 in pixels of the scene


@dataclass(frozen=True)
class Answer:
    """A text about a scene, the box that it names, a model's choice, and its route (a mode for each layer)."""

    scene: Scene
    text: str
    box: Box
    chosen: Box
    right: bool
    route: Sequence[str] = ()


def draw_answers(answers: Sequence[Answer], title: str, subtitle: str) -> Image.Image:
    """Return the picture: the right box is framed in green, a wrong answer in red and dashed."""
    rows = -(-len(answers) // COLUMNS)
    height = CANVAS_HEIGHT + LINES * LINE + GAP
    size = (GAP + COLUMNS * (CANVAS_WIDTH + GAP), HEAD + rows * height)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((GAP, 14), title, fill=INK, font=ImageFont.load_default(26))
    pen.text((GAP, 52), subtitle, fill=INK, font=ImageFont.load_default(TEXT))
    _legend(pen, size[0])
    for place, answer in enumerate(answers):
        corner = (GAP + place % COLUMNS * (CANVAS_WIDTH + GAP), HEAD + place // COLUMNS * height)
        _draw_answer(picture, answer, corner)
    return picture


def _legend(pen: ImageDraw.ImageDraw, width: int) -> None:
    font = ImageFont.load_default(TEXT)
    left = width - 480
    pen.rectangle((left, 54, left + 22, 72), outline=RIGHT, width=3)
    pen.text((left + 32, 52), "the right object", fill=INK, font=font)
    _dashed(pen, (left + 200, 54, left + 222, 72))
    pen.text((left + 232, 52), "the model's, where wrong", fill=INK, font=font)


def _draw_answer(picture: Image.Image, answer: Answer, corner: tuple[int, int]) -> None:
    left, top = corner
    scene = draw_objects(answer.scene).resize((CANVAS_WIDTH, CANVAS_HEIGHT), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(scene)
    pen.rectangle(_around(answer.box), outline=RIGHT, width=4)
    if not answer.right:
        _dashed(pen, _around(answer.chosen))
    picture.paste(scene, corner)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    said = _wrapped(pen, f"\u201c{answer.text}\u201d", font)
    verdict = "found" if answer.right else "another object chosen"
    lines = [(line, INK) for line in said] + [(verdict, RIGHT if answer.right else WRONG)]
    if answer.route:
        lines.append((f"route, layer by layer: {' '.join(answer.route)}", INK))
    for row, (line, colour) in enumerate(lines[:LINES]):
        pen.text((left, top + CANVAS_HEIGHT + 4 + row * LINE), line, fill=colour, font=font)


def _around(box: Box) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return (
        max(x1 - MARGIN, 1),
        max(y1 - MARGIN, 1),
        min(x2 + MARGIN, CANVAS_WIDTH - 2),
        min(y2 + MARGIN, CANVAS_HEIGHT - 2),
    )


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], dash: int = 8) -> None:
    x1, y1, x2, y2 = box
    for (start, end), fixed, across in (((x1, x2), (y1, y2), True), ((y1, y2), (x1, x2), False)):
        for at in range(int(start), int(end), 2 * dash):
            stop = min(at + dash, end)
            for edge in fixed:
                line = (at, edge, stop, edge) if across else (edge, at, edge, stop)
                pen.line(line, fill=WRONG, width=4)


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """The text in lines that are no wider than a scene."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) > CANVAS_WIDTH and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
