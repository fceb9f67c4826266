"""Some samples' routes, and what they are about: the scene, the text, and the way through the layers.

Scenes of a synthetic world are drawn, found again by image and text. A world's folder does not hold its scenes, but its
parameters, from which they are drawn anew. A scene is shown only where the redrawn world says of this image what the
sample says, word for word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.model.switch import INPUT_CANDIDATES
from volta_switch.study.report.route_counts import Flow, Step, paint, percent
from volta_switch.study.report.svg import FAINT, INK, element, escape, picture, shortened, words
from volta_switch.world.build import world_spec
from volta_switch.world.content import SceneCaptions, SceneExpressions, SceneHypotheses, SceneQuestions, draw_split
from volta_switch.world.phrases import Lexicon
from volta_switch.world.pictures import PAPER, RGB
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, COLOURS, MATERIALS, SHAPES, SIZES, WorldSpec
from volta_switch.world.task_file import TASKS as WORLD_TASKS

SHOWN = 6  # samples of a task
COMMON = 3  # at least so many of them of the most frequent routes, where there are several
OF_PATHS = "On a path, arcs above are text, and arcs below vision, that a layer takes from two layers below."
OF_SCENES = "In a scene, a thick outline is metal, a dashed one wood, and what is pale is glass."
SCENE_WIDTH = 220  # drawn units of a scene
STAR = ((0.5, 0), (0.62, 0.36), (1, 0.38), (0.7, 0.6), (0.81, 1), (0.5, 0.77),
        (0.19, 1), (0.3, 0.6), (0, 0.38), (0.38, 0.36))  # fmt: skip
FACTS = ("question type", "objects", "regions", "text length")


def chosen_samples(flow: Flow, count: int = SHOWN) -> list[int]:
    """Chooses samples to show: of the most frequent routes and of the rarest, the same ones every time.

    Half are of the most frequent routes, one each, half of the rarest. Where there are fewer routes than that, the
    others are of the most frequent one again, spread evenly over its samples.
    """
    members: dict[tuple[Step, ...], list[int]] = {}
    for number, route in enumerate(flow.routes):
        members.setdefault(route, []).append(number)
    ordered = sorted(members, key=lambda route: (-len(members[route]), route))
    kept = ordered if len(ordered) <= count else [*ordered[:COMMON], *ordered[COMMON - count :]]
    left = min(count - len(kept), len(members[ordered[0]]) - 1)
    first = members[ordered[0]]
    more = [first[(step + 1) * len(first) // (left + 1)] for step in range(left)] if left > 0 else []
    return [first[0], *more, *(members[route][0] for route in kept[1:])]


def samples_markup(flow: Flow) -> str:
    """Returns cards of some samples."""
    known = flow.report.samples or {}
    scenes = Scenes(flow.world, flow.report.task, flow.report.split)
    counts = Counter(flow.routes)
    cards = []
    chosen = chosen_samples(flow)
    images, texts = ([str(known[name][number]) for number in chosen] for name in ("images", "texts"))
    about = [scenes.of(image, text) for image, text in zip(images, texts, strict=True)]
    for number, image, text, shown in zip(chosen, images, texts, about, strict=True):
        route = flow.routes[number]
        drawn = scene_picture(shown, f"Image {image}: {described(shown)}") if shown else ""
        answer = f" — {shown.answer}" if shown and shown.answer else ""
        facts = [f"{name} {known[name][number]}" for name in FACTS if name in known]
        lines = [
            element("p", escape(f"“{text}”{answer}"), class_="sample-text"),
            route_path(route),
            element("p", escape(_rarity(counts[route], flow.samples)), class_="sample-share"),
            element("p", escape(f"image {image}: {', '.join(facts)}"), class_="sample-facts"),
        ]
        cards.append(element("li", drawn, element("div", *lines), class_="sample"))
    key = f"{OF_PATHS} {OF_SCENES}" if any(about) else OF_PATHS
    return element("p", key, class_="sample-key") + element("ul", *cards, class_="samples")


def _rarity(count: int, of: int) -> str:
    return f"{percent(count / of)} of samples take this route ({count} of {of})"


def route_path(route: Sequence[Step], *, cell: float = 34) -> str:
    """Draws one route as a small path: modes, arcs over them for text that skips a layer, under them for vision."""
    gap, high, arc = 10, 20, 14
    step = cell + gap
    top, start = 1 + arc, 14  # the row's upper edge; the first cell's left one
    width = start + len(route) * step
    drawn = [
        element("circle", cx=5, cy=top + high / 2, r=4, fill=INK),
        element("line", x1=5, y1=top + high / 2, x2=width - gap, y2=top + high / 2, stroke=INK, stroke_width=1.5),
    ]
    middles = [5.0, *(start + layer * step + cell / 2 for layer in range(len(route)))]  # of l = 0, 1, ...
    for layer, (mode, number) in enumerate(route):
        fill, ink = paint(mode)
        x = start + layer * step
        drawn.append(element("rect", x=x, y=top, width=cell, height=high, rx=3, fill=fill, stroke=INK))
        drawn.append(
            words(
                shortened(mode, cell - 2, 12, bold=True),
                x + cell / 2,
                top + 14,
                fill=ink,
                text_anchor="middle",
                font_weight="bold",
            )
        )
        for side, (skips, y, away) in enumerate(zip(INPUT_CANDIDATES[number], (top, top + high), (-1, 1), strict=True)):
            if skips and layer > 0:
                drawn.append(_arc(middles[layer - 1], middles[layer + 1], y, away * arc, side))
    return picture(width, high + 2 * top, f"Route {spoken(route)}", *drawn)


def _arc(x1: float, x2: float, y: float, rise: float, side: int) -> str:
    left, right = x1 + 6, x2 - 6
    tip = y + (1 if rise > 0 else -1) * 0.5
    line = element("path", d=f"M{left:g} {tip:g} C{left:g} {y + rise:g} {right:g} {y + rise:g} {right:g} {tip:g}",
                   fill="none", stroke=(INK, FAINT)[side], stroke_width=2)  # fmt: skip
    back = y + 4.5 * (1 if rise > 0 else -1)
    points = f"{right:g},{tip:g} {right - 3.2:g},{back:g} {right + 3.2:g},{back:g}"
    return line + element("polygon", points=points, fill=(INK, FAINT)[side])


def spoken(route: Sequence[Step]) -> str:
    """Returns a route in words: ``SC, then J with vision from l-2``."""
    inputs = {(1, 0): " with text from l-2", (0, 1): " with vision from l-2", (1, 1): " with both from l-2"}
    return ", then ".join(mode + inputs.get(INPUT_CANDIDATES[number], "") for mode, number in route)


# --- Scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleScene:
    """What the world knows of a sample."""

    scene: Scene
    target: int | None = None
    """The object that it names."""
    answer: str = ""


class Scenes:
    """Looks up what the samples of a task and split are about; empty where the data are no synthetic world."""

    def __init__(self, world: Path | None, task: str, split: str) -> None:
        """Draws a split's scenes anew; ``task``: the task file's key, TASK10; ``split`` as the task calls it, testA."""
        self._found: dict[tuple[str, str], SampleScene] = {}
        names = [name for name, fields in WORLD_TASKS.items() if f"TASK{fields[0]}" == task]
        spec = _spec(world) if world else None
        part = next((own for key, own in (("train", "train"), ("test", "test")) if key in split), "val")
        if not names or spec is None or names[0] not in spec.data_sets:
            return
        lexicon = Lexicon(spec)
        for entry in draw_split(spec, names[0], part):
            for text, shown in _said(entry):
                self._found[str(shown.scene.image_id), lexicon.spell(text)] = shown

    def of(self, image: str, text: str) -> SampleScene | None:
        """Returns what this sample is about, if that is known."""
        return self._found.get((image, text))


def _spec(world: Path) -> WorldSpec | None:
    """Returns a world's parameters; None where there is none, or one of another version, drawn otherwise."""
    try:
        return world_spec(world)
    except UserError:
        return None


def _said(entry: object) -> list[tuple[str, SampleScene]]:
    """Returns (text in English, what it is about) of all that is said about a scene."""
    match entry:
        case SceneCaptions(scene, captions):
            return [(caption.words(), SampleScene(scene)) for caption in captions]
        case SceneExpressions(scene, expressions):
            return [(phrase.words(), SampleScene(scene, target)) for target, phrase in expressions]
        case SceneQuestions(scene, questions):
            return [(question.words(), SampleScene(scene, answer=answer)) for question, answer, _ in questions]
        case SceneHypotheses(scene, claims):
            return [(claim.words(), SampleScene(scene, answer=verdict)) for claim, verdict in claims]
    return []  # a pair of images is not drawn


def scene_picture(shown: SampleScene, title: str) -> str:
    """Draws the scene: metal has a thick outline, wood a dashed one, glass is pale; what is named has a label."""
    scale = SCENE_WIDTH / CANVAS_WIDTH
    paper = "#" + "".join(f"{part:02x}" for part in PAPER)
    ground = element("rect", x=0, y=0, width=SCENE_WIDTH, height=CANVAS_HEIGHT * scale, fill=paper, stroke=FAINT)
    drawn = [_object(shown.scene, index, scale) for index in range(len(shown.scene.objects))]
    if shown.target is not None:
        drawn.append(_target(shown.scene.boxes[shown.target], scale))
    return picture(SCENE_WIDTH, CANVAS_HEIGHT * scale, title, ground, *drawn, description=described(shown))


def described(shown: SampleScene) -> str:
    """Returns the scene in words, for those who do not see it."""
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
    """Draws a frame around what is named, black and white so that it is seen on every colour, with a label."""
    x1, y1, x2, y2 = (edge * scale for edge in box)
    x, y = max(x1 - 3, 1.5), max(y1 - 3, 1.5)
    size = {"x": x, "y": y, "width": min(x2 + 3, SCENE_WIDTH - 1.5) - x, "height": y2 + 3 - y, "fill": "none"}
    frame = element("rect", **size, stroke="#ffffff", stroke_width=4)
    frame += element("rect", **size, stroke="#000000", stroke_width=2)
    above = y - 15 if y > 16 else y2 + 5
    left = min(x, SCENE_WIDTH - 50)
    plate = element("rect", x=left, y=above, width=48, height=14, fill="#000000")
    return frame + plate + words("named", left + 4, above + 11, fill="#ffffff")
