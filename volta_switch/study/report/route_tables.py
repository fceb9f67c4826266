"""What is known of routes besides their flow, as tables and bars: frequencies, interventions, dependence, attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from volta_switch.study.report.route_counts import Flow, Step, counted, percent
from volta_switch.study.report.route_samples import route_path
from volta_switch.study.report.svg import COLOURS, FAINT, GRID, Scale, element, escape, marker, picture, words

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
    """A table of markup cells that scrolls where it is too wide; the first cell of a row is its heading."""
    head = element("tr", *(element("th", cell, scope="col") for cell in heads))
    lines = [
        element("tr", element("th", row[0], scope="row"), *(c if c[:3] == "<td" else element("td", c) for c in row[1:]))
        for row in rows
    ]
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *lines),
                    class_=class_ or None)  # fmt: skip
    return element("div", whole, class_="route-table", tabindex=0, role="group", aria_label="Table, may scroll")


def signed(value: float, digits: int = 1) -> str:
    """``+1.2``, ``−0.3``, ``0.0``."""
    written = f"{abs(value):.{digits}f}"
    if not float(written):
        return written
    return ("+" if value > 0 else MINUS) + written


def _tinted(value: float, largest: float, lines: Sequence[str], title: str = "") -> str:
    """A cell coloured by its value, orange for less and blue for more; an arrow says the same without colour."""
    share = min(abs(value) / largest, 1.0) if largest > 0 else 0.0
    deep = LOSS if value < 0 else GAIN
    colour = "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in deep)
    arrow = "" if not share else ("▼ " if value < 0 else "▲ ")
    first = element("b", f"{arrow}{escape(lines[0])}")
    more = [element("span", escape(line)) for line in lines[1:]]
    return element("td", first, *more, class_="tint", style=f"background:{colour}", title=title or None)


def of_shares(interval: Sequence[float] | None) -> str:
    """`` (12 to 34 %)``, the interval of a share where the samples are of drawn images; empty where there is none."""
    return f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)" if interval else ""


def of_changes(interval: Sequence[float] | None) -> str:
    """`` (−1.2 to +0.3)``, that of a change in points."""
    return f" ({signed(interval[0])} to {signed(interval[1])})" if interval else ""


# --- Frequencies ----------------------------------------------------------------------------------------------------


def shares_table(flow: Flow) -> str:
    """Every node of the flow in numbers."""
    heads = ["Layer", *map(escape, flow.modes), *(_input(name) for name in flow.inputs)]
    rows = []
    for layer, taken in enumerate(flow.taken):
        of = flow.intervals.get("layers", [{}] * flow.depth)[layer]
        reach = {name: of_shares(found) for part in ("modes", "inputs") for name, found in of.get(part, {}).items()}
        cells = [percent(flow.share(layer, mode)) + reach.get(mode, "") for mode in flow.modes]
        cells += [percent(taken[name] / flow.samples) + reach.get(name, "") if taken else "" for name in flow.inputs]
        rows.append([str(layer + 1), *map(escape, cells)])
    caption = "How often a layer is in each mode, and takes each input; of all samples"
    if flow.intervals:
        caption += " that were drawn, with 95 % intervals for those of the whole split"
    return table(heads, rows, caption)


def differences(first: Flow, second: Flow) -> str:
    """What ``first`` chooses more often than ``second``, per layer, in percentage points; layers are as many."""
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
    """The most frequent whole routes, as paths with bars for their shares."""
    found = flow.report["architectures"]
    lines = found["most frequent"][:FREQUENT]
    known = flow.intervals.get("architectures", {})
    reach = {line["route"]: line["share"] for line in known.get("most frequent", ())}
    rows = []
    for line in lines:
        share = line["share"]
        bar = element("rect", x=0.5, y=4, width=max(120 * share, 0.5), height=12, fill=COLOURS[0])
        frame = element("rect", x=0.5, y=4, width=120, height=12, fill="none", stroke=FAINT, stroke_width=0.6)
        drawn = element("svg", bar, frame, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 122 20", width=122,
                        height=20, aria_hidden="true")  # fmt: skip
        share_words = f"{percent(share)} ({line['samples']}){of_shares(reach.get(line['route']))}"
        path = route_path(_steps(flow, line["route"]))
        rows.append(element("li", path, element("span", drawn, escape(share_words), class_="share")))
    left = 1 - sum(line["share"] for line in lines)
    rest = found["different"] - len(lines)
    said = (
        f"{found['different']} {'route' if found['different'] == 1 else 'different routes'} over {flow.samples} "
        f"samples; entropy {found['entropy']:.2f} bits"
    )
    said += " ({:.2f} to {:.2f}).".format(*known["entropy"]) if known.get("entropy") else "."
    said += f" The {rest} rarer ones together: {percent(left)}." if rest > 0 else ""
    return element("p", escape(said)) + element("ol", *rows, class_="architectures")


def _steps(flow: Flow, words_of_route: str) -> tuple[Step, ...]:
    report = {**flow.report, "per sample": {"routes": [words_of_route]}}
    return counted(report, flow.name).routes[0]


# --- Interventions --------------------------------------------------------------------------------------------------


def interventions(flow: Flow) -> str:
    """What forcing and forbidding an option changes, beside how often it is chosen."""
    changes = flow.report.get("interventions") or []
    if not changes:
        return ""
    metric = str(flow.report["metric"])
    known = [each["change"] for each in changes if each["change"] is not None]
    largest = max([DEEPEST, *map(abs, known)])
    score = flow.report["metrics"].get(metric)
    before = "" if score is None else f", {score:.1f} as chosen"
    said = (
        f"The change of {metric}{before}, in points, when all samples are forced to an option at one layer, or "
        f"forbidden it, and all else stays as chosen. Small print: how often the option is chosen. A choice that can "
        f"be forbidden at no loss is a habit."
    )
    heats = [
        _heat([each for each in changes if each["kind"] == kind], flow, caption, largest)
        for kind, caption in (("force", "Forced on all samples"), ("forbid", "Forbidden"))
    ]
    return element("p", escape(said)) + element("div", *heats, class_="heats") + _other_routes(flow)


def _other_routes(flow: Flow) -> str:
    """What samples lose without routes of their own."""
    kinds = {
        "most frequent": "all samples on the most frequent route",
        "shuffled": "each on the route of a sample drawn at random",
    }
    parts = [
        f"{kinds[each['kind']]} {'unknown' if each['change'] is None else signed(each['change'])} "
        f"({each['rerouted']} of {each['samples']} samples go another way)"
        f"{of_changes(each.get('intervals', {}).get('change'))}"
        for each in flow.report.get("whole routes") or []
    ]
    return element("p", escape(f"Whole routes: {'; '.join(parts)}.")) if parts else ""


def _heat(changes: list[Mapping[str, Any]], flow: Flow, caption: str, largest: float) -> str:
    columns = list(dict.fromkeys((str(each["block"]), str(each["option"])) for each in changes))
    columns.sort(key=lambda column: column[0] != "modes")
    at = {(each["layer"], each["block"], each["option"]): each for each in changes}
    rows = []
    for layer in range(1, flow.depth + 1):
        cells = [_change(at.get((layer, *column)), flow, largest) for column in columns]
        if any(cells):
            rows.append([str(layer), *(cell or element("td", "") for cell in cells)])
    heads = ["Layer", *(_input(option) for _, option in columns)]
    return table(heads, rows, caption, "heat")


def _change(each: Mapping[str, Any] | None, flow: Flow, largest: float) -> str:
    if each is None:
        return ""
    layer = each["layer"] - 1
    if each["block"] == "modes":
        share = flow.share(layer, each["option"])
    else:
        share = flow.taken[layer].get(each["option"], 0) / flow.samples
    chosen = f"chosen {percent(share)}"
    title = f"{each['rerouted']} of {each['samples']} samples go another way"
    reach = of_changes(each.get("intervals", {}).get("change"))
    if each["change"] is None:
        return _tinted(0, largest, ["unknown", chosen], title)
    if not each["rerouted"]:
        return _tinted(0, largest, ["same", chosen], title)
    value = float(each["change"])
    return _tinted(value if float(f"{value:.1f}") else 0.0, largest, [signed(value) + reach, chosen], title)


# --- Dependence, training, attention ----------------------------------------------------------------------------------


def dependence(flow: Flow) -> str:
    """Mutual information of whole routes with what is known of the samples, and the layer that tells most."""
    found = flow.report.get("mutual information") or {}
    if not found:
        return ""
    rows = []
    for fact, of in found.items():
        whole = of["architecture"]
        lines = [(block, line) for block in ("modes", "inputs") for line in of.get(block, ())]
        block, best = max(lines, key=lambda each: each[1]["bits"], default=("", None))
        told = f"{block} of layer {best['layer']}: {best['bits']:.2f} bits" if best and best["bits"] > 0 else "none"
        share = f"{whole['bits']:.2f} of {of['entropy']:.2f}"
        rows.append([escape(fact), share, f"{whole['p']:.3f}", escape(told)])
    heads = ["Fact", "Bits known from the route", "p", "Most in one layer"]
    caption = (
        "Mutual information, less what chance gives; p: share of permutations that reach it, not corrected for the "
        "number of facts"
    )
    constant = flow.report["architectures"]["different"] == 1
    note = element("p", "All samples take one route, so it tells nothing about them.") if constant else ""
    return note + table(heads, rows, caption)


def over_training(flow: Flow) -> str:
    """Entropy of whole routes, and of the layers' choices, against training samples; nothing for a single time."""
    points = sorted(flow.report.get("over training") or [], key=lambda each: each["training samples"])
    if len(points) < 2:
        return ""
    lines = {
        "whole route": [each["architectures"]["entropy"] for each in points],
        "a layer's mode, mean": [_mean_entropy(each, "modes entropy") for each in points],
        "a layer's input, mean": [_mean_entropy(each, "inputs entropy") for each in points],
    }
    drawn = {name: values for name, values in lines.items() if None not in values}
    return _entropies([each["training samples"] for each in points], drawn, flow.name)


def _mean_entropy(point: Mapping[str, Any], key: str) -> float | None:
    values = [layer[key] for layer in point["layers"] if key in layer]
    return sum(values) / len(values) if values else None


def _entropies(samples: list[int], lines: Mapping[str, list[Any]], name: str) -> str:
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
    """The share of attention that crosses to the other modality, per layer, with the range over heads."""
    rows = []
    for line in flow.report.get("attention") or []:
        cells = []
        for pair in ("text to vision", "vision to text"):
            heads = line.get(pair)
            if not heads:
                cells.append("none")
                continue
            mean = sum(heads) / len(heads)
            cells.append(escape(f"{percent(mean)} ({percent(min(heads))} to {percent(max(heads))})"))
        rows.append([str(line["layer"]), *cells])
    caption = "Attention's mass that goes to the other modality: mean over heads, and from the least head to the most"
    return table(["Layer", "Text to vision", "Vision to text"], rows, caption) if rows else ""
