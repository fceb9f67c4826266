"""Scenes of the small world as small drawings, found again by image and text.

A world's folder does not hold its scenes, but its parameters, from which they are drawn anew. A scene is shown only
where the redrawn world says of this image what the sample says, word for word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from volta_switch.checksums import refuse_gone
from volta_switch.data.files.json_files import read_object
from volta_switch.study.report.svg import FAINT, INK, element, escape, picture, words
from volta_switch.world.build import SUMMARY
from volta_switch.world.content import SceneCaptions, SceneExpressions, SceneHypotheses, SceneQuestions, draw_split
from volta_switch.world.pictures import PAPER, RGB
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, COLOURS, MATERIALS, SHAPES, SIZES, WorldSpec
from volta_switch.world.task_file import TASKS
from volta_switch.world.vocabulary import Lexicon

WIDTH = 220  # drawn units of a scene, the caption's too
STAR = ((0.5, 0), (0.62, 0.36), (1, 0.38), (0.7, 0.6), (0.81, 1), (0.5, 0.77),
        (0.19, 1), (0.3, 0.6), (0, 0.38), (0.38, 0.36))  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What the world knows of a sample: its scene, the object that it names (or None), and the answer (or none)."""

    scene: Scene
    target: int | None = None
    answer: str = ""


class Scenes:
    """Looks up what the samples of one task and split are about; knows nothing where the data are not a small world."""

    def __init__(self, world: Path | None, task: str, split: str) -> None:
        """``task``: the task file's key, TASK10; ``split`` as the task calls it, testA."""
        self._found: dict[tuple[str, str], Shown] = {}
        names = [name for name, fields in TASKS.items() if f"TASK{fields[0]}" == task]
        spec = _spec(world) if world else None
        part = next((own for key, own in (("train", "train"), ("test", "test")) if key in split), "val")
        if not names or spec is None or names[0] not in spec.data_sets:
            return
        lexicon = Lexicon(spec)
        for entry in draw_split(spec, names[0], part):
            for text, shown in _said(entry):
                self._found[str(shown.scene.image_id), lexicon.spell(text)] = shown

    def of(self, image: str, text: str) -> Shown | None:
        """What this sample is about, if that is known."""
        return self._found.get((image, text))


def _spec(world: Path) -> WorldSpec | None:
    path = world / SUMMARY
    if not path.is_file():
        refuse_gone([path])
        return None
    fields = dict(read_object(path)["spec"])
    return WorldSpec(**fields)


def _said(entry: object) -> list[tuple[str, Shown]]:
    """(text in English, what it is about) of all that is said about a scene."""
    match entry:
        case SceneCaptions(scene, captions):
            return [(caption.words(), Shown(scene)) for caption in captions]
        case SceneExpressions(scene, expressions):
            return [(phrase.words(), Shown(scene, target)) for target, phrase in expressions]
        case SceneQuestions(scene, questions):
            return [(question.words(), Shown(scene, answer=answer)) for question, answer, _ in questions]
        case SceneHypotheses(scene, claims):
            return [(claim.words(), Shown(scene, answer=verdict)) for claim, verdict in claims]
    return []  # a pair of images is not drawn


def scene_picture(shown: Shown, title: str) -> str:
    """The scene as SVG: metal has a thick outline, wood a dashed one, glass is pale; what is named has a label."""
    scale = WIDTH / CANVAS_WIDTH
    paper = "#" + "".join(f"{part:02x}" for part in PAPER)
    ground = element("rect", x=0, y=0, width=WIDTH, height=CANVAS_HEIGHT * scale, fill=paper, stroke=FAINT)
    drawn = [_object(shown.scene, index, scale) for index in range(len(shown.scene.objects))]
    if shown.target is not None:
        drawn.append(_target(shown.scene.boxes[shown.target], scale))
    return picture(WIDTH, CANVAS_HEIGHT * scale, title, ground, *drawn, description=described(shown))


def described(shown: Shown) -> str:
    """The scene in words, for those who do not see it."""
    names = [_name(shown.scene, index) for index in range(len(shown.scene.objects))]
    said = f"{len(names)} objects: {', '.join(names)}."
    return said if shown.target is None else f"{said} Named: the {names[shown.target]}."


def _name(scene: Scene, index: int) -> str:
    size, colour, material, shape = scene.objects[index]
    return f"{SIZES[size]} {COLOURS[colour]} {MATERIALS[material]} {SHAPES[shape]}"


def _object(scene: Scene, index: int, scale: float) -> str:
    _, colour, material, shape = scene.objects[index]
    x1, y1, x2, y2 = (edge * scale for edge in scene.boxes[index])
    width, height = x2 - x1, y2 - y1
    fill = "#" + "".join(f"{part:02x}" for part in RGB[COLOURS[colour]])
    look: dict[str, object] = {
        "metal": {"stroke": INK, "stroke_width": 2.4},
        "wooden": {"stroke": INK, "stroke_width": 1.4, "stroke_dasharray": "3 2"},
        "glass": {"stroke": INK, "stroke_width": 0.7, "fill_opacity": 0.5},
    }[MATERIALS[material]]
    title = element("title", escape(_name(scene, index)))
    middle = {"cx": x1 + width / 2, "cy": y1 + height / 2}
    match SHAPES[shape]:
        case "cube":
            return element("rect", title, x=x1, y=y1, width=width, height=height, fill=fill, **look)
        case "ball":
            return element("ellipse", title, **middle, rx=width / 2, ry=height / 2, fill=fill, **look)
        case "ring":
            paths = [_ellipse(middle["cx"], middle["cy"], width * r, height * r) for r in (0.5, 0.22)]
            return element("path", title, d=" ".join(paths), fill_rule="evenodd", fill=fill, **look)
    corners = STAR if SHAPES[shape] == "star" else ((0.5, 0), (1, 1), (0, 1))
    points = " ".join(f"{x1 + x * width:.1f},{y1 + y * height:.1f}" for x, y in corners)
    return element("polygon", title, points=points, fill=fill, **look)


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> str:
    halves = f"a{rx:.1f} {ry:.1f} 0 1 0 {2 * rx:.1f} 0 a{rx:.1f} {ry:.1f} 0 1 0 {-2 * rx:.1f} 0"
    return f"M{cx - rx:.1f} {cy:.1f} {halves}z"


def _target(box: tuple[int, int, int, int], scale: float) -> str:
    """A frame around what is named, black and white so that it is seen on every colour, with a label."""
    x1, y1, x2, y2 = (edge * scale for edge in box)
    x, y = max(x1 - 3, 1.5), max(y1 - 3, 1.5)
    size = {"x": x, "y": y, "width": min(x2 + 3, WIDTH - 1.5) - x, "height": y2 + 3 - y, "fill": "none"}
    frame = element("rect", **size, stroke="#ffffff", stroke_width=4)
    frame += element("rect", **size, stroke="#000000", stroke_width=2)
    above = y - 15 if y > 16 else y2 + 5
    left = min(x, WIDTH - 50)
    plate = element("rect", x=left, y=above, width=48, height=14, fill="#000000")
    return frame + plate + words("named", left + 4, above + 11, fill="#ffffff")
