"""Routes as pictures: which modes and inputs the layers of a model choose on a task (paper section 3.5, figure 4).

Styles and behaviour are in flows.css and flows.js; without them the pictures are still whole and labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from volta_switch.study.report.route_counts import MEANINGS, CollectedRoutes, Flow, counted, flows_of, paint, percent
from volta_switch.study.report.route_samples import samples_markup
from volta_switch.study.report.route_tables import (
    architectures,
    attention,
    base_scores,
    dependence,
    differences,
    interventions,
    over_training,
    shares_table,
)
from volta_switch.study.report.svg import FAINT, INK, element, escape, picture, shortened, words
from volta_switch.study.route_reports import RouteReport
from volta_switch.task_names import task_title

# Units of the drawing, CSS pixels at its natural size.
NODE, GAP = 54, 28  # a layer's column, and between two
FULL = 150  # height of 100 % of the samples
ARC = 15  # thickness of 100 %
LANE = 58  # room for arcs, their label included
SOURCE, SOURCE_GAP = 10, 14  # the embeddings' column, and the gap after it
TALL, LOW = 32, 14.5  # a node holds two lines of label from here, and one; below, the label stands under the column
LINE = 13.5
COLUMN = 4  # layers that fit into one of the page's columns


def flow_figure(routes: RouteReport | Flow, title: str = "") -> str:
    """Draws one model's routes on one task as SVG, layers from left to right.

    In each layer stand the modes, as high as often. Bands say how many samples go from a mode to the next layer's. Arcs
    over them are text, arcs under them vision, that a layer takes from two layers below, as thick as often.

    Args:
        routes: what ``volta-switch routes`` wrote, or that counted.
        title: read to those who do not see the picture.
    """
    flow = routes if isinstance(routes, Flow) else counted(routes)
    return _Drawing(flow).whole(title or f"Routes: {flow.name}, {flow.report.split}, {flow.samples} samples")


class _Drawing:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.top = LANE + 2.0  # of the stacks
        small = [[mode for mode in of_layer if self._height(layer, mode) < LOW] for layer, of_layer in self._layers()]
        self.under = self.top + FULL + LINE * (1 + max(map(len, small))) + 6  # where the lower arcs begin
        self.small = small

    def _layers(self) -> Iterable[tuple[int, dict[str, int]]]:
        return enumerate(self.flow.nodes)

    def _height(self, layer: int, mode: str) -> float:
        return FULL * self.flow.share(layer, mode)

    def _x(self, layer: int) -> float:
        """Returns the left edge of a layer's column; -1: the embeddings'."""
        return 4 if layer < 0 else 4 + SOURCE + SOURCE_GAP + layer * (NODE + GAP)

    def whole(self, title: str) -> str:
        flow = self.flow
        width = max(self._x(flow.depth - 1) + NODE + 4, 300)
        lanes = ("Text taken from two layers below", "Vision taken from two layers below")
        if not flow.inputs:
            lanes = ("Inputs are not switched", "")
        drawn = [words(lanes[0], 4, 11, fill=FAINT)]
        drawn += [self._band(layer) for layer in range(-1, flow.depth - 1)]
        drawn += [self._source(), *(self._column(layer) for layer in range(flow.depth))]
        drawn += [self._arc(layer, side) for layer in range(1, flow.depth) for side in (0, 1)]
        bottom = self.under + (LANE if flow.inputs else 0)
        drawn.append(words(lanes[1], 4, bottom - 3, fill=FAINT) if lanes[1] else "")
        return picture(width, bottom, title, *drawn, description=described(flow))

    def _source(self) -> str:
        """Draws the embeddings, below the first layer."""
        said = element("title", "The embeddings, which the first layer reads")
        return element("rect", said, x=self._x(-1), y=self.top, width=SOURCE, height=FULL, fill="#ffffff", stroke=INK)

    def _column(self, layer: int) -> str:
        x, y, drawn = self._x(layer), self.top, []
        for mode, count in self.flow.nodes[layer].items():
            height = self._height(layer, mode)
            drawn.append(self._node(layer, mode, count, x, y, height))
            y += height
        y = self.top + FULL + LINE
        drawn.append(words(f"layer {layer + 1}", x + NODE / 2, y, text_anchor="middle"))
        for mode in self.small[layer]:
            y += LINE
            label = f"{mode} {percent(self.flow.share(layer, mode))}"
            drawn.append(words(shortened(label, NODE + GAP - 4, 12), x + NODE / 2, y, text_anchor="middle"))
        return "".join(drawn)

    def _node(self, layer: int, mode: str, count: int, x: float, y: float, height: float) -> str:
        fill, ink = paint(mode)
        share = percent(count / self.flow.samples)
        said = f"Layer {layer + 1}, {_mode_words(mode)}: {share}, {count} of {self.flow.samples} samples"
        box = element("rect", x=x, y=y, width=NODE, height=height, fill=fill, stroke=INK, stroke_width=0.8)
        label, centre = "", x + NODE / 2
        if height >= TALL:
            label = words(
                shortened(mode, NODE - 4, 13, bold=True),
                centre,
                y + height / 2 - 2,
                size=13,
                font_weight="bold",
                text_anchor="middle",
                fill=ink,
            )
            label += words(share, centre, y + height / 2 + 12, text_anchor="middle", fill=ink)
        elif height >= LOW:
            label = words(
                shortened(f"{mode} {share}", NODE, 12), centre, y + height / 2 + 4, text_anchor="middle", fill=ink
            )
        data = {"data_layer": layer + 1, "data_mode": mode, "data_count": count}
        return element("g", element("title", escape(said)), box, label, class_="node", **data)

    def _band(self, layer: int) -> str:
        """Draws all bands from a layer to the next one; from the embeddings (-1) they only point in."""
        flow, drawn = self.flow, []
        left = self._x(layer) + (SOURCE if layer < 0 else NODE)
        right = self._x(layer + 1)
        if layer < 0:
            shape = _ribbon(left, self.top, right, self.top, FULL)
            return element("path", d=shape, fill="#e6e6e6")
        unit = FULL / flow.samples
        leaving, arriving = _tops(flow.nodes[layer], self.top, unit), _tops(flow.nodes[layer + 1], self.top, unit)
        for (before, after), count in flow.bands[layer].items():
            said = (
                f"Layer {layer + 1} {before} to layer {layer + 2} {after}: {percent(count / flow.samples)}, "
                f"{count} of {flow.samples} samples"
            )
            shape = _ribbon(left, leaving[before], right, arriving[after], count * unit)
            leaving[before] += count * unit
            arriving[after] += count * unit
            data = {"data_layer": layer + 1, "data_from": before, "data_to": after, "data_count": count}
            look = {"fill": paint(before)[0], "fill_opacity": 0.5, "stroke": FAINT, "stroke_width": 0.4}
            drawn.append(element("path", element("title", escape(said)), d=shape, class_="band", **look, **data))
        return "".join(drawn)

    def _arc(self, layer: int, side: int) -> str:
        """Draws what a layer takes from two layers below: text (0) over the stacks, vision (1) under them."""
        flow, count = self.flow, self.flow.skips[layer][side]
        if not count:
            return ""
        share, kind = percent(count / flow.samples), ("text", "vision")[side]
        below = f"layer {layer - 1}" if layer > 1 else "the embeddings"
        said = f"Layer {layer + 1} takes {kind} from {below}: {share}, {count} of {flow.samples} samples"
        edge, away = (self.top - 2, -1) if side == 0 else (self.under, 1)
        from_, to = self._x(layer - 2) + (SOURCE if layer < 2 else NODE) / 2 + 9, self._x(layer) + NODE / 2 - 9
        if layer < 2:
            from_ -= 9
        thick, rise = ARC * count / flow.samples, away * 36
        d = f"M{from_:g} {edge:g} C{from_:g} {edge + rise:g} {to:g} {edge + rise:g} {to:g} {edge:g}"
        line = element("path", d=d, fill="none", stroke=("#5B3A8C", "#8A4B08")[side], stroke_width=thick,
                       stroke_opacity=0.75)  # fmt: skip
        x, y = (from_ + to) / 2, edge + 0.75 * rise
        # Over the arc's middle, with a white edge, since arcs cross.
        label = words(share, x, y + 4, text_anchor="middle", font_weight="bold", stroke="#ffffff",
                      stroke_width=3.5, paint_order="stroke", stroke_linejoin="round")  # fmt: skip
        data = {"data_layer": layer + 1, "data_side": kind, "data_count": count}
        return element("g", element("title", escape(said)), line, label, class_="input", **data)


def _tops(counts: Mapping[str, int], top: float, unit: float) -> dict[str, float]:
    """Returns where each node of a column begins."""
    found = {}
    for mode, count in counts.items():
        found[mode] = top
        top += count * unit
    return found


def _ribbon(x1: float, y1: float, x2: float, y2: float, height: float) -> str:
    """Draws a band of one height between two columns, given by its upper corners."""
    middle = (x1 + x2) / 2
    return (
        f"M{x1:g} {y1:.2f} C{middle:g} {y1:.2f} {middle:g} {y2:.2f} {x2:g} {y2:.2f} V{y2 + height:.2f} "
        f"C{middle:g} {y2 + height:.2f} {middle:g} {y1 + height:.2f} {x1:g} {y1 + height:.2f} Z"
    )


def _mode_words(mode: str) -> str:
    return f"{mode} ({MEANINGS[mode]})" if mode in MEANINGS else mode


def described(flow: Flow) -> str:
    """Tells what the picture shows, in words."""
    said = []
    for layer, counts in enumerate(flow.nodes):
        line = ", ".join(f"{mode} {percent(count / flow.samples)}" for mode, count in counts.items())
        for kind, count in zip(("text", "vision"), flow.skips[layer], strict=True):
            line += f", {kind} from two layers below {percent(count / flow.samples)}" if count else ""
        said.append(f"Layer {layer + 1}: {line}.")
    return " ".join(said)


# --- The page's section ---------------------------------------------------------------------------------------------


def flows_section(collected: Sequence[CollectedRoutes]) -> str:
    """Returns all about routes as markup for the page, below a heading of its own."""
    missing = [
        f"{entry.arm} on {task_title(entry.task, entry.synthetic)}" for entry in collected if entry.report is None
    ]
    notes = [element("p", escape(f"Not made yet: {', '.join(missing)}."), class_="note")] if missing else []
    flows = flows_of(collected)
    if not flows:
        return element("div", *(notes or [element("p", "This study asks for no routes.", class_="note")]),
                       class_="routes")  # fmt: skip
    figures = element("div", *(_figure(number, flow) for number, flow in enumerate(flows)), class_="flows")
    parts = [*notes, _intro(flows), base_scores(flows), _controls(flows), figures, _differences(flows)]
    parts += [_details(flow, opened=number < 3) for number, flow in enumerate(flows)]
    return element("div", *parts, class_="routes")


def _intro(flows: list[Flow]) -> str:
    said = (
        "Routes are chosen sample by sample. Each column is a layer, its boxes the attention modes that its samples "
        "chose, as high as often; bands are the samples that go from one to the next. Arcs are inputs taken from two "
        "layers below, as thick as often; the white bar at the left is the embeddings. All pictures have one scale."
    )
    modes = dict.fromkeys(mode for flow in flows for mode in flow.modes)
    swatches = [
        element("li", _swatch(mode), element("b", escape(mode)), f" {escape(MEANINGS.get(mode, ''))}") for mode in modes
    ]
    return element("p", said) + element("ul", *swatches, class_="flow-legend")


def _swatch(mode: str) -> str:
    box = element("rect", x=0.5, y=0.5, width=13, height=13, fill=paint(mode)[0], stroke=INK)
    return element("svg", box, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 14 14", width=14, height=14,
                   aria_hidden="true")  # fmt: skip


def _controls(flows: list[Flow]) -> str:
    """Returns the choice of two to be shown side by side; flows.js brings it to life, and shows it."""
    if len(flows) < 2:
        return ""
    options = [element("option", escape(flow.name), value=number) for number, flow in enumerate(flows)]
    all_ = element("option", "all", value="", selected="selected")
    boxes = [
        element("label", label, element("select", all_, *options, class_=f"flow-{label.split()[0].lower()}"))
        for label in ("First ", "Second ")
    ]
    legend = element("legend", "Compare two")
    return element("fieldset", legend, *boxes, class_="flow-controls", hidden="hidden")


def _figure(number: int, flow: Flow) -> str:
    report, name = flow.report, f"flow-{number}"
    assert report.architectures is not None
    different = report.architectures.different
    said = f"{report.split}: {flow.samples} samples, {different} {'route' if different == 1 else 'routes'}"
    if different == 1:
        said += " for all"
    heading = element("b", escape(flow.name)) + element("br") + escape(said)
    scroll = element("div", flow_figure(flow), class_="flow-scroll", tabindex=0, role="group",
                     aria_label=f"Picture of the routes: {flow.name}")  # fmt: skip
    numbers = element("details", element("summary", "Numbers"), shares_table(flow))
    live = element("p", "Point at a box, a band or an arc for its numbers.", class_="flow-said", aria_live="polite")
    parts = (element("figcaption", heading), scroll, live, numbers)
    return element("figure", *parts, class_="flow deep" if flow.depth > COLUMN else "flow", id=name,
                   data_flow=number)  # fmt: skip


def _differences(flows: list[Flow]) -> str:
    pairs = [
        element("div", differences(first, second), class_="flow-pair", data_pair=f"{i} {j}")
        for (i, first), (j, second) in combinations(enumerate(flows), 2)
        if first.depth == second.depth
    ]
    if not pairs:
        return ""
    summary = element("summary", "Differences between two, in percentage points")
    return element("details", summary, *pairs, class_="flow-differences")


def _details(flow: Flow, opened: bool) -> str:
    """Shows what is known of one report's routes besides their flow."""
    parts = [
        ("Whole routes", architectures(flow)),
        ("What a choice is worth", interventions(flow)),
        ("What routes depend on", dependence(flow)),
        ("Over training", over_training(flow)),
        ("Where attention goes", attention(flow)),
        ("Samples and their routes", samples_markup(flow)),
    ]
    shown = [element("div", element("h4", heading), body, class_="route-part") for heading, body in parts if body]
    summary = element("summary", escape(f"{flow.name}: routes in detail"))
    opened_ = "open" if opened else None
    return element(
        "details", summary, element("div", *shown, class_="route-parts"), class_="route-details", open=opened_
    )
