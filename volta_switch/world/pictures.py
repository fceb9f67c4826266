"""Pictures for people: a scene with what is said about it, and several scenes with a model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from volta_switch.config import ATTENTION_MODES
from volta_switch.world.content import World
from volta_switch.world.phrases import Lexicon
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, COLOURS, MATERIALS, SHAPES, SIZES

PER_TASK = 10  # scenes drawn of each task
SCALE = 2  # drawn pixels per scene pixel
LINE = 26  # drawn pixels per line of text
PAPER = (214, 210, 200)
INK = (20, 20, 20)
RGB = {
    "red": (205, 40, 40),
    "green": (40, 150, 60),
    "blue": (45, 85, 205),
    "yellow": (240, 205, 40),
    "purple": (140, 60, 170),
    "brown": (125, 80, 45),
    "white": (250, 250, 250),
    "black": (45, 45, 50),
}
# Of a picture of answers.
RIGHT_COLOUR, WRONG_COLOUR = (0, 125, 70), (200, 40, 40)
COLUMNS = 3
GAP, ANSWER_LINE, HEAD, TEXT, SMALL = 24, 22, 116, 17, 14  # pixels: between panels, of a line, of the title; of letters
ANSWER_LINES = 4  # under a scene
MARGIN = 5  # pixels between a box and its frame

Box = tuple[float, ...]  # x1, y1, x2, y2 in pixels of the scene


def draw_scene(scene: Scene, lines: list[str]) -> Image.Image:
    """Returns a picture of the scene, its objects boxed and numbered, with lines of text under it."""
    height = CANVAS_HEIGHT * SCALE + LINE * (len(lines) + 1)
    picture = Image.new("RGB", (CANVAS_WIDTH * SCALE, height), "white")
    draw = ImageDraw.Draw(picture)
    picture.paste(draw_objects(scene))
    small, text = ImageFont.load_default(15), ImageFont.load_default(19)
    for index, (x1, y1, x2, y2) in enumerate(scene.boxes):
        draw.rectangle((x1 * SCALE, y1 * SCALE, x2 * SCALE, y2 * SCALE), outline=INK, width=1)
        size, colour, material, _ = scene.objects[index]
        label = f"{index} {SIZES[size]} {COLOURS[colour]} {MATERIALS[material]}"
        draw.text(
            (min(x1 * SCALE + 1, CANVAS_WIDTH * SCALE - 160), max(0, y1 * SCALE - 17)), label, fill=INK, font=small
        )
    for row, line in enumerate(lines):
        draw.text((10, CANVAS_HEIGHT * SCALE + LINE // 2 + row * LINE), line, fill=INK, font=text)
    return picture


def draw_objects(scene: Scene) -> Image.Image:
    """Returns a picture of the scene alone, ``SCALE`` times as large as the canvas."""
    picture = Image.new("RGB", (CANVAS_WIDTH * SCALE, CANVAS_HEIGHT * SCALE), PAPER)
    for index in range(len(scene.objects)):
        _draw_object(picture, scene, index)
    return picture


def _draw_object(picture: Image.Image, scene: Scene, index: int) -> None:
    _, colour, material, shape = scene.objects[index]
    x1, y1, x2, y2 = (SCALE * edge for edge in scene.boxes[index])
    width, height = x2 - x1, y2 - y1
    outline = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(outline)
    _SHAPES[SHAPES[shape]](pen, width, height)
    picture.paste(_surface(MATERIALS[material], RGB[COLOURS[colour]], width, height), (x1, y1), outline)


def _surface(material: str, colour: tuple[int, int, int], width: int, height: int) -> Image.Image:
    """Returns a rectangle of a material: metal shines, wood has grain, glass is pale, stone has specks."""
    if material == "glass":
        colour = _mix(colour, PAPER, 0.45)
    surface = Image.new("RGB", (width, height), colour)
    pen = ImageDraw.Draw(surface)
    dark, light = _mix(colour, (0, 0, 0), 0.3), _mix(colour, (255, 255, 255), 0.6)
    if material == "metal":
        for column in range(width):
            shine = max(0.0, 1 - abs(column / width - 0.35) * 4)
            pen.line((column, 0, column, height), fill=_mix(colour, (255, 255, 255), 0.75 * shine))
    elif material == "wooden":
        for row in range(4, height, 9):
            pen.line((0, row, width, row + 3), fill=dark, width=2)
    elif material == "glass":
        for start in (0.2, 0.35):
            pen.line((width * start, height, width * (start + 0.4), 0), fill=light, width=5)
    else:
        for step in range(width * height // 60):
            x, y = step * 37 % width, step * 91 % height
            pen.ellipse((x, y, x + 3, y + 3), fill=dark if step % 2 else light)
    return surface


def _mix(colour: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _cube(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.rectangle((0, 0, width, height), fill=255)


def _ball(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.ellipse((0, 0, width - 1, height - 1), fill=255)


def _cone(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.polygon([(width / 2, 0), (width, height), (0, height)], fill=255)


def _ring(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.ellipse((0, 0, width - 1, height - 1), fill=255)
    pen.ellipse((width * 0.28, height * 0.28, width * 0.72, height * 0.72), fill=0)


def _star(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    points = [(0.5, 0), (0.62, 0.36), (1, 0.38), (0.7, 0.6), (0.81, 1), (0.5, 0.77)]
    mirrored = [(1 - x, y) for x, y in reversed(points[1:5])]
    pen.polygon([(x * width, y * height) for x, y in points + mirrored], fill=255)


def _heart(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.ellipse((0, 0, width * 0.52, height * 0.55), fill=255)
    pen.ellipse((width * 0.48, 0, width, height * 0.55), fill=255)
    pen.polygon([(width * 0.03, height * 0.37), (width * 0.97, height * 0.37), (width / 2, height)], fill=255)


_SHAPES = {"cube": _cube, "ball": _ball, "cone": _cone, "ring": _ring, "star": _star, "heart": _heart}


def render_world(folder: Path, world: World, lexicon: Lexicon) -> None:
    """Draws the first test scenes of each task into ``folder``, with their texts in English and as spelled."""
    folder.mkdir(parents=True)
    for entry in world.refer.get("test", [])[:PER_TASK]:
        lines = [f"{target}: {_line(phrase.words(), lexicon)}" for target, phrase in entry.expressions]
        draw_scene(entry.scene, ["Expression for object", *lines]).save(folder / f"refer-{entry.scene.image_id}.png")
    for asked in world.vqa.get("test", [])[:PER_TASK]:
        lines = [f"{_line(question.words(), lexicon)}?  {reply}" for question, reply, _ in asked.questions]
        draw_scene(asked.scene, lines).save(folder / f"vqa-{asked.scene.image_id}.png")
    for captioned in world.retrieval.get("test", [])[:PER_TASK]:
        lines = [_line(caption.words(), lexicon) for caption in captioned.captions]
        draw_scene(captioned.scene, lines).save(folder / f"retrieval-{captioned.scene.image_id}.png")


def _line(text: str, lexicon: Lexicon) -> str:
    spelled = lexicon.spell(text)
    return text if spelled == text else f"{text}  [{spelled}]"


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
    """Returns the picture: the right box is framed in green, a wrong answer in red and dashed."""
    rows = -(-len(answers) // COLUMNS)
    height = CANVAS_HEIGHT + ANSWER_LINES * ANSWER_LINE + GAP
    size = (GAP + COLUMNS * (CANVAS_WIDTH + GAP), HEAD + rows * height)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((GAP, 14), title, fill=INK, font=ImageFont.load_default(26))
    pen.text((GAP, 52), subtitle, fill=INK, font=ImageFont.load_default(TEXT))
    _legend(pen, size[0])
    modes = {mode: None for answer in answers for mode in answer.route}
    meanings = "; ".join(f"{mode}: {ATTENTION_MODES[mode].meaning}" for mode in ATTENTION_MODES if mode in modes)
    pen.text((GAP, 80), f"route {meanings}" if meanings else "", fill=INK, font=ImageFont.load_default(SMALL))
    for place, answer in enumerate(answers):
        corner = (GAP + place % COLUMNS * (CANVAS_WIDTH + GAP), HEAD + place // COLUMNS * height)
        _draw_answer(picture, answer, corner)
    return picture


def _legend(pen: ImageDraw.ImageDraw, width: int) -> None:
    font = ImageFont.load_default(TEXT)
    left = width - 480
    pen.rectangle((left, 54, left + 22, 72), outline=RIGHT_COLOUR, width=3)
    pen.text((left + 32, 52), "the right object", fill=INK, font=font)
    _dashed(pen, (left + 200, 54, left + 222, 72))
    pen.text((left + 232, 52), "the model's, where wrong", fill=INK, font=font)


def _draw_answer(picture: Image.Image, answer: Answer, corner: tuple[int, int]) -> None:
    left, top = corner
    scene = draw_objects(answer.scene).resize((CANVAS_WIDTH, CANVAS_HEIGHT), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(scene)
    pen.rectangle(_around(answer.box), outline=RIGHT_COLOUR, width=4)
    if not answer.right:
        _dashed(pen, _around(answer.chosen))
    picture.paste(scene, corner)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    said = _wrapped(pen, f"\u201c{answer.text}\u201d", font)
    verdict = "found" if answer.right else "another object chosen"
    lines = [(line, INK) for line in said] + [(verdict, RIGHT_COLOUR if answer.right else WRONG_COLOUR)]
    if answer.route:
        lines.append((f"route, layer by layer: {' '.join(answer.route)}", INK))
    for row, (line, colour) in enumerate(lines[:ANSWER_LINES]):
        pen.text((left, top + CANVAS_HEIGHT + 4 + row * ANSWER_LINE), line, fill=colour, font=font)


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
        for left in range(int(start), int(end), 2 * dash):
            right = min(left + dash, end)
            for edge in fixed:
                line = (left, edge, right, edge) if across else (edge, left, edge, right)
                pen.line(line, fill=WRONG_COLOUR, width=4)


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Returns the text in lines that are no wider than a scene."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) > CANVAS_WIDTH and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
