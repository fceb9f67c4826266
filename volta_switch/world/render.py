"""Drawings of scenes for people to look at, with what is said about them underneath."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from volta_switch.world.content import World
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, COLOURS, MATERIALS, SHAPES, SIZES
from volta_switch.world.vocabulary import Lexicon

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


def draw_scene(scene: Scene, lines: list[str]) -> Image.Image:
    """Return a picture of the scene, its objects boxed and numbered, with lines of text under it."""
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
    """Return a picture of the scene alone, ``SCALE`` times as large as the canvas."""
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
    """Return a rectangle of a material: metal shines, wood has grain, glass is pale and streaked, stone is speckled."""
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
    """Draw the first test scenes of each task into ``folder``, with their texts in English and as spelled."""
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
