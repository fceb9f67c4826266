"""Some samples' routes beside what they are about: the scene, the text, and the way through the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from volta_switch.model.switch import INPUT_CANDIDATES
from volta_switch.study.report.route_counts import Flow, Step, paint, percent
from volta_switch.study.report.scene_pictures import Scenes, described, scene_picture
from volta_switch.study.report.svg import FAINT, INK, element, escape, picture, shortened, words

SHOWN = 6  # samples of a task
COMMON = 3  # at least so many of them of the most frequent routes, where there are several
OF_PATHS = "On a path, arcs above are text, and arcs below vision, that a layer takes from two layers below."
OF_SCENES = "In a scene, a thick outline is metal, a dashed one wood, and what is pale is glass."
FACTS = ("question type", "objects", "regions", "text length")


def chosen_samples(flow: Flow, count: int = SHOWN) -> list[int]:
    """Which samples to show: of the most frequent routes and of the rarest, the same ones every time.

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
    """Cards of some samples."""
    known = flow.report["per sample"]
    scenes = Scenes(flow.world, str(flow.report["task"]), str(flow.report["split"]))
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
    """One route as a small path: each layer's mode, arcs over it for text that skips a layer, under it for vision."""
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
    """A route in words: ``SC, then J with vision from l-2``."""
    inputs = {(1, 0): " with text from l-2", (0, 1): " with vision from l-2", (1, 1): " with both from l-2"}
    return ", then ".join(mode + inputs.get(INPUT_CANDIDATES[number], "") for mode, number in route)
