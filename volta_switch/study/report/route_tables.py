"""What is known of routes besides their flow, as tables and bars: frequencies, interventions, dependence, attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from volta_switch.statistics import holds_zero
from volta_switch.study.report.route_counts import Flow, parsed_routes, percent
from volta_switch.study.report.route_samples import route_path
from volta_switch.study.report.svg import COLOURS, FAINT, GRID, Scale, element, escape, marker, picture, words
from volta_switch.study.route_reports import Bounds, Information, LayerIntervals, RouteChange, RouteShares

FREQUENT = 6  # whole routes shown
MINUS = "−"
LOSS, GAIN = (216, 122, 60), (104, 164, 214)  # the deepest tints of a change; INK on them is 5 : 1 and more
DEEPEST = 5.0  # points: a change of less never has the deepest tint
INPUT_WORDS = {
    "l-1": "both l−1",
    "text l-2": "text l−2",
    "vision l-2": "vision l−2",
    "l-2": "both l−2",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, class_: str = "") -> str:
    """Returns a table of markup; a row begins with its heading.

    It scrolls where it is too wide; on a phone its rows become lists, for which each cell has its column's name.
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in heads))
    lines = []
    for row in rows:
        first = element("th", row[0], scope="row", data_label=heads[0])
        cells = [cell if cell[:3] == "<td" else element("td", cell) for cell in row[1:]]
        named = [f'<td data-label="{name}"{cell[3:]}' for name, cell in zip(heads[1:], cells, strict=True)]
        lines.append(element("tr", first, *named))
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *lines),
                    class_=f"stacked {class_}".strip())  # fmt: skip
    return element("div", whole, class_="route-table", tabindex=0, role="group", aria_label="Table, may scroll")


def signed(value: float, digits: int = 1) -> str:
    """Returns ``+1.2``, ``−0.3``, ``0.0``."""
    written = f"{abs(value):.{digits}f}"
    if not float(written):
        return written
    return ("+" if value > 0 else MINUS) + written


def _tinted(value: float, largest: float, lines: Sequence[str], title: str = "") -> str:
    """Returns an entry of a table coloured by its value (orange: less, blue: more); an arrow says the same."""
    share = min(abs(value) / largest, 1.0) if largest > 0 else 0.0
    deep = LOSS if value < 0 else GAIN
    colour = "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in deep)
    arrow = "" if not share else ("▼ " if value < 0 else "▲ ")
    first = element("b", f"{arrow}{escape(lines[0])}")
    more = [element("span", escape(line)) for line in lines[1:]]
    return element("td", first, *more, class_="tint", style=f"background:{colour}", title=title or None)


def of_shares(interval: Bounds) -> str:
    """Returns `` (12 to 34 %)``, the interval of a share where the samples are of drawn images; else nothing."""
    return f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)" if interval else ""


def of_changes(interval: Bounds) -> str:
    """Returns `` (−1.2 to +0.3)``, that of a change in points."""
    return f" ({signed(interval[0])} to {signed(interval[1])})" if interval else ""


def _grey(lines: Sequence[str], title: str) -> str:
    """Returns an entry that is not told apart from no change."""
    more = (element("span", escape(line)) for line in lines[1:])
    return element("td", element("b", escape(lines[0])), *more, class_="tint within", title=title or None)


# --- Base scores ----------------------------------------------------------------------------------------------------


def base_scores(flows: Sequence[Flow]) -> str:
    """Shows the one score of each report that all changes on the page are from, beside that of the whole split."""
    rows = []
    for flow in flows:
        numbers = ["–" if score is None else f"{score:.1f}" for score in (flow.base, flow.whole)]
        rows.append([escape(flow.name), escape(flow.metric), str(flow.samples), element("b", numbers[0]), numbers[1]])
    heads = ["Routes of", "Metric", "Samples", "Base score", "The same weights on the whole split"]
    caption = (
        "Base scores: of the samples whose routes are shown, on the routes that they chose. Every change of a score "
        "by other routes, below, is from these."
    )
    return table(heads, rows, caption)


def base_words(flow: Flow) -> str:
    """Returns ``the base score, 78.6``."""
    return "the base score" if flow.base is None else f"the base score, {flow.base:.1f}"


# --- Frequencies ----------------------------------------------------------------------------------------------------


def shares_table(flow: Flow) -> str:
    """Shows every node of the flow in numbers."""
    heads = ["Layer", *map(escape, flow.modes), *(_input(name) for name in flow.inputs)]
    rows = []
    for layer, taken in enumerate(flow.taken):
        known = flow.intervals.layers[layer] if flow.intervals and flow.intervals.layers else LayerIntervals()
        reach = {name: of_shares(found) for part in (known.modes, known.inputs) for name, found in part.items()}
        cells = [percent(flow.share(layer, mode)) + reach.get(mode, "") for mode in flow.modes]
        cells += [percent(taken[name] / flow.samples) + reach.get(name, "") if taken else "" for name in flow.inputs]
        rows.append([str(layer + 1), *map(escape, cells)])
    caption = "How often a layer is in each mode, and takes each input; of all samples"
    if flow.intervals:
        caption += " that were drawn, with 95 % intervals for those of the whole split"
    return table(heads, rows, caption)


def differences(first: Flow, second: Flow) -> str:
    """Shows what ``first`` chooses more often than ``second``, per layer, in percentage points; layers are as many."""
    modes = tuple(dict.fromkeys([*first.modes, *second.modes]))
    inputs = tuple(dict.fromkeys([*first.inputs, *second.inputs]))
    rows = []
    for layer in range(first.depth):
        cells = [100 * (first.share(layer, mode) - second.share(layer, mode)) for mode in modes]
        taken = [(flow.taken[layer], flow.samples) for flow in (first, second)]
        for name in inputs:
            shares = [counts.get(name, 0) / samples for counts, samples in taken]
            cells.append(100 * (shares[0] - shares[1]))
        empty = len(modes) if layer == 0 else len(cells)  # the first layer's input is not switched
        shown = [_tinted(value, 100, [signed(value)]) for value in cells[:empty]]
        rows.append([str(layer + 1), *shown, *[""] * (len(cells) - empty)])
    heads = ["Layer", *map(escape, modes), *(_input(name) for name in inputs)]
    return table(heads, rows, escape(f"{first.name} less {second.name}, percentage points"), "heat")


def _input(name: str) -> str:
    return escape(INPUT_WORDS.get(name, name))


def architectures(flow: Flow) -> str:
    """Shows the most frequent whole routes, as paths with bars for their shares."""
    found = flow.report.architectures
    assert found is not None
    lines = found.most_frequent[:FREQUENT]
    known = flow.intervals.architectures if flow.intervals else RouteShares()
    reach = {line.route: line.share for line in known.most_frequent}
    rows = []
    for line in lines:
        share = line.share
        bar = element("rect", x=0.5, y=4, width=max(120 * share, 0.5), height=12, fill=COLOURS[0])
        frame = element("rect", x=0.5, y=4, width=120, height=12, fill="none", stroke=FAINT, stroke_width=0.6)
        drawn = element("svg", bar, frame, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 122 20", width=122,
                        height=20, aria_hidden="true")  # fmt: skip
        share_words = f"{percent(share)} ({line.samples}){of_shares(reach.get(line.route))}"
        path = route_path(parsed_routes([line.route], flow.report.switch.inputs, flow.name)[0])
        rows.append(element("li", path, element("span", drawn, escape(share_words), class_="share")))
    left = 1 - sum(line.share for line in lines)
    rest = found.different - len(lines)
    said = (
        f"{found.different} {'route' if found.different == 1 else 'different routes'} over {flow.samples} "
        f"samples; entropy {found.entropy:.2f} bits"
    )
    said += " ({:.2f} to {:.2f}).".format(*known.entropy) if known.entropy else "."
    said += f" The {rest} rarer ones together: {percent(left)}." if rest > 0 else ""
    return element("p", escape(said)) + element("ol", *rows, class_="architectures")


# --- Interventions --------------------------------------------------------------------------------------------------


def interventions(flow: Flow) -> str:
    """Shows what forcing and forbidding an option changes, with how often it is chosen."""
    changes = flow.report.interventions
    if not changes:
        return ""
    known = [each.change for each in changes if each.change is not None]
    largest = max([DEEPEST, *map(abs, known)])
    said = (
        f"Changes of {flow.metric} from {base_words(flow)}, in points. All samples are forced to an option at one "
        f"layer, or forbidden it, and all else stays as chosen. Small print: the 95 % interval, and how often the "
        f"option is chosen. Grey: the interval holds zero, or no sample goes another way. A choice that can be "
        f"forbidden at no loss is a habit."
    )
    heats = [
        _heat([each for each in changes if each.kind == kind], flow, caption, largest)
        for kind, caption in (("force", "Forced on all samples"), ("forbid", "Forbidden"))
    ]
    return element("p", escape(said)) + element("div", *heats, class_="heats") + _other_routes(flow)


def _other_routes(flow: Flow) -> str:
    """Tells what samples lose without routes of their own."""
    kinds = {
        "most frequent": "all samples on the most frequent route",
        "shuffled": "each on the route of a sample drawn at random",
    }
    parts = []
    for each in flow.report.whole_routes:
        change = "unknown" if each.change is None else signed(each.change)
        told = f"{change}{of_changes(each.bounds)}, {each.rerouted} of {each.samples} samples go another way"
        grey = holds_zero(each.bounds) or not each.rerouted
        shown = element("span", escape(told), class_="within") if grey else escape(told)
        parts.append(f"{escape(kinds[each.kind])}: {shown}")
    return element("p", f"Changes with whole routes, from the same base score: {'; '.join(parts)}.") if parts else ""


def _heat(changes: list[RouteChange], flow: Flow, caption: str, largest: float) -> str:
    columns = list(dict.fromkeys((each.block, each.option) for each in changes))
    columns.sort(key=lambda column: column[0] != "modes")
    by_place = {(each.layer, each.block, each.option): each for each in changes}
    rows = []
    for layer in range(1, flow.depth + 1):
        cells = [_change(by_place.get((layer, *column)), flow, largest) for column in columns]
        if any(cells):
            rows.append([str(layer), *(cell or element("td", "") for cell in cells)])
    heads = ["Layer", *(_input(option) for _, option in columns)]
    return table(heads, rows, caption, "heat")


def _change(each: RouteChange | None, flow: Flow, largest: float) -> str:
    if each is None:
        return ""
    layer = each.layer - 1
    if each.block == "modes":
        share = flow.share(layer, each.option)
    else:
        share = flow.taken[layer].get(each.option, 0) / flow.samples
    chosen = f"chosen {percent(share)}"
    title = f"{each.rerouted} of {each.samples} samples go another way"
    reach = of_changes(each.bounds)
    if each.change is None:
        return _tinted(0, largest, ["unknown", chosen], title)
    if not each.rerouted:
        return _grey(["same", chosen], title)
    value = float(each.change)
    lines = [signed(value), *([reach.strip(" ()")] if reach else []), chosen]
    if holds_zero(each.bounds) or not float(f"{value:.1f}"):
        return _grey(lines, title)
    return _tinted(value, largest, lines, title)


# --- Dependence, training, attention ----------------------------------------------------------------------------------


def dependence(flow: Flow) -> str:
    """Shows the mutual information of whole routes with what is known of the samples, and the layer that tells most."""
    found = flow.report.dependence
    if not found:
        return ""
    rows = []
    for fact, of in found.items():
        whole = of.architecture
        lines = [(block, line) for block, part in (("modes", of.modes), ("inputs", of.inputs)) for line in part]
        block, best = max(lines, key=lambda each: each[1].bits, default=("", Information(0.0)))
        told = f"{block} of layer {best.layer}: {best.bits:.2f} bits" if best.bits > 0 else "none"
        share = f"{whole.bits:.2f} of {of.entropy:.2f}"
        rows.append([escape(fact), share, f"{whole.p:.3f}", escape(told)])
    heads = ["Fact", "Bits known from the route", "p", "Most in one layer"]
    caption = (
        "Mutual information, less what chance gives; p: share of permutations that reach it, not corrected for the "
        "number of facts"
    )
    constant = flow.report.architectures is not None and flow.report.architectures.different == 1
    note = element("p", "All samples take one route, so it tells nothing about them.") if constant else ""
    return note + table(heads, rows, caption)


def over_training(flow: Flow) -> str:
    """Draws entropies of whole routes and of layers' choices against training samples; nothing for one time."""
    points = sorted(flow.report.over_training, key=lambda each: each.samples)
    if len(points) < 2:
        return ""
    lines: dict[str, list[float | None]] = {
        "whole route": [each.architectures.entropy for each in points],
        "a layer's mode, mean": [_mean(layer.modes_entropy for layer in each.layers) for each in points],
        "a layer's input, mean": [_mean(layer.inputs_entropy for layer in each.layers) for each in points],
    }
    known = {name: [value for value in values if value is not None] for name, values in lines.items()}
    drawn = {name: values for name, values in known.items() if len(values) == len(points)}
    return _entropies([each.samples for each in points], drawn, flow.name)


def _mean(numbers: Iterable[float | None]) -> float | None:
    values = [number for number in numbers if number is not None]
    return sum(values) / len(values) if values else None


def _entropies(samples: list[int], lines: Mapping[str, list[float]], name: str) -> str:
    width, height, left, bottom = 340, 190, 40, 150
    most = max((value for values in lines.values() for value in values), default=0.0)
    x = Scale(0, max(max(samples), 1), left, width - 14)
    y = Scale(0, max(most * 1.1, 0.5), bottom, 12)
    drawn = [words("bits", left - 6, 10, fill=FAINT, text_anchor="end")]
    for tick in y.ticks(4):
        drawn.append(element("line", x1=left, y1=y(tick), x2=width - 14, y2=y(tick), stroke=GRID))
        drawn.append(words(f"{tick:g}", left - 6, y(tick) + 4, fill=FAINT, text_anchor="end"))
    for tick in x.ticks(4):
        drawn.append(words(_thousands(tick), x(tick), bottom + 15, fill=FAINT, text_anchor="middle"))
    drawn.append(words("training samples", width - 14, bottom + 30, fill=FAINT, text_anchor="end"))
    key = []
    for number, (label, values) in enumerate(lines.items()):
        colour, kind = COLOURS[number], ("circle", "square", "up")[number]
        points = [(x(at), y(value)) for at, value in zip(samples, values, strict=True)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        drawn.append(element("polyline", points=path, fill="none", stroke=colour, stroke_width=2))
        for (px, py), at, value in zip(points, samples, values, strict=True):
            said = escape(f"{label} after {at} samples: {value:.2f} bits")
            drawn.append(element("g", element("title", said), marker(kind, px, py, 9, colour)))
        key.append(element("li", element("svg", marker(kind, 7, 7, 10, colour), viewBox="0 0 14 14", width=14,
                                         height=14, aria_hidden="true"), escape(label)))  # fmt: skip
    title = f"Entropy of routes over training: {name}"
    return picture(width, height, title, *drawn) + element("ul", *key, class_="flow-legend")


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def attention(flow: Flow) -> str:
    """Shows the share of attention that crosses to the other modality, per layer, with the range over heads."""
    rows = []
    for line in flow.report.attention:
        cells = []
        for heads in (line.text, line.vision):
            if not heads:
                cells.append("none")
                continue
            mean = sum(heads) / len(heads)
            cells.append(escape(f"{percent(mean)} ({percent(min(heads))} to {percent(max(heads))})"))
        rows.append([str(line.layer), *cells])
    caption = "Attention's mass that goes to the other modality: mean over heads, and from the least head to the most"
    return table(["Layer", "Text to vision", "Vision to text"], rows, caption) if rows else ""
