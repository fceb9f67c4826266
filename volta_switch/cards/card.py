"""A model's card: ``README.md``, made of its ``training.json``.

The last line holds a checksum of all above. A card that somebody has edited is left as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from volta_switch.cards.metadata import data_title, metadata, test_settings
from volta_switch.checksums import is_there
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG, read_json_object
from volta_switch.config.model_folder import CARD, REGIONS, TRAINING
from volta_switch.errors import UserError
from volta_switch.files import CannotWrite, replacing
from volta_switch.task_names import column_title, metric_title, task_title

Rows = list[tuple[str, str]]
_HERE = Path(__file__).parent
_MARK = "<!-- written by volta-switch; an edited card is not renewed; sha256 of the lines above: {} -->\n"
_MARKED = re.compile(r"(?s)(.*)" + re.escape(_MARK).replace(re.escape("{}"), "([0-9a-f]{64})"))
_GLOBAL = {"first": "their mean, before them", "last": "their mean, behind them", None: "none"}


def is_own_card(path: Path) -> bool:
    """Returns whether a card is as this project wrote it."""
    try:
        found = _MARKED.fullmatch(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return False
    return found is not None and found[2] == _digest(found[1])


def renew_card(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes a model's card, or leaves one that was edited, or was there before, and says so.

    Args:
        folder: the model's.
        record: what its ``training.json`` holds.

    Raises:
        UserError: the record, the configuration or ``preprocessor.json`` is damaged, or the system refused to write.
    """
    path = folder / CARD
    if path.exists() and not is_own_card(path):
        print(
            f"{path}: not as it was written, and left as it is; training.json beside it has the newest numbers (remove "
            "the card to have it written anew)",
            file=sys.stderr,
        )
        return
    config, regions = load_config(folder / CONFIG), _regions_of(folder)
    try:
        text = card_text(record, config, regions)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # another machine's record, or an edited one
        raise UserError(
            f"{folder / TRAINING}: not as this project writes it ({type(error).__name__}: {error}); remove it, or copy "
            "it again"
        ) from None
    content = (text + _MARK.format(_digest(text))).encode()
    if path.is_file() and path.read_bytes() == content:
        return
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except CannotWrite as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def card_text(record: Mapping[str, Any], config: Config, regions: Mapping[str, Any]) -> str:
    """Returns a card without its last line.

    Args:
        record: what ``training.json`` holds.
        config: the model's.
        regions: what ``preprocessor.json`` holds.
    """
    import yaml
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    papers = json.loads((_HERE / "papers.json").read_text(encoding="utf-8"))
    architecture = papers[record["model"]["architecture"]]["name"]
    title = _title(record, architecture)
    task = record.get("task", {})
    environment = Environment(loader=FileSystemLoader(_HERE), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    comparisons = record.get("comparison", [])
    body = environment.get_template("card.md.j2").render(
        title=title,
        about=_about(record, architecture),
        synthetic="synthetic_world" in record.get("data", {}),
        facts=list(_facts(record, architecture)),
        command=_command(record),
        task=task,
        model_class="BertForVLTasks" if task else "BertForVLPreTraining",
        regions=_region_rows(config, regions),
        fingerprints=[(name, _fingerprint(of)) for name, of in record.get("data", {}).get("fingerprints", {}).items()],
        tests=[row for test in record.get("tests", []) for row in _test_rows(test)],
        seeds=[row for entry in comparisons for row in _seed_rows(entry)],
        validation=_validation(record),
        equal=[_held_equal(entry) for entry in comparisons],
        bibtex="\n\n".join(_bibtex(papers[key]) for key in _cited(record["model"]["architecture"])),
    )
    block = yaml.safe_dump(metadata(record, title), sort_keys=False, allow_unicode=True)
    return f"---\n{block}---\n\n{body}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cell(value: object) -> str:
    """Returns a value as a cell of a Markdown table, whatever it holds."""
    return " ".join(str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _regions_of(folder: Path) -> dict[str, Any]:
    path = folder / REGIONS
    try:
        return read_json_object(path) if is_there(path) else {}
    except UserError as error:
        raise UserError(f"{error}; remove it, or copy it again") from None


def _title(record: Mapping[str, Any], architecture: str) -> str:
    if record["kind"] == "import":
        return f"{architecture}, imported weights"
    if record["kind"] == "python":
        return f"{architecture}, saved from Python"
    done = "pre-trained" if record["kind"] == "pre-training" else "fine-tuned"
    return f"{architecture}, {done} on {data_title(record)}"


def _about(record: Mapping[str, Any], architecture: str) -> str:
    if record["kind"] == "import":
        taken = record["imported"]
        return (
            f"Weights of {taken['project']}, under volta-switch's names. The model is {architecture}'s as VOLTA "
            "describes it. No weight was trained here."
        )
    if record["kind"] == "python":
        return f"{architecture}, a model of vision and language. How its weights came about is not recorded."
    work = "for words, regions and matching" if record["kind"] == "pre-training" else f"for {data_title(record)}"
    return f"{architecture}, a model of vision and language, trained with volta-switch {work}."


def _facts(record: Mapping[str, Any], architecture: str) -> Iterator[tuple[str, object]]:
    model = record["model"]
    yield "architecture", architecture
    if shipped := model.get("configuration"):
        changed = f", changed: {', '.join(shipped['changed'])}" if shipped["changed"] else ""
        yield "configuration", f"`{shipped['name']}`{changed}"
    yield "parameters", f"{model['parameters'] / 1e6:.2f} M"
    if "task" in record:
        yield "head", ", ".join(str(record["task"][key]) for key in ("key", "type") if key in record["task"])
    if record["kind"] == "import":
        yield from _import_facts(record["imported"])
        return
    if words := record["start"].get("words"):
        yield "started from", words
    weights = f"`{record['weights']['file']}`, sha256 `{record['weights']['sha256']}`"
    if record["kind"] == "python":
        yield "weights", weights
        return
    hyper, settings = record["hyperparameters"], record["settings"]
    yield "training", f"{record['epochs']} epochs, {record['steps']} steps of {hyper['batch_size']} samples"
    yield "learning rate", f"{hyper['learning_rate']:g}, decay {hyper['weight_decay']:g}"
    yield "seed", record["seeds"]["training"]
    if settings.get("data_fraction", 1.0) != 1.0:
        yield "share of the samples", f"{settings['data_fraction']:g}, drawn by seed {record['seeds']['data_fraction']}"
    yield "computed in", f"{record['precision']}, processes: {record['processes']}"
    if settings.get("boxes"):
        yield "boxes in training", settings["boxes"]
    yield "VOLTA's known errors", "on" if record["compatibility"]["volta_compat"] else "off"
    environment = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    commit = f"commit {environment['commit']}, " if "commit" in environment else ""
    yield "code", f"{commit}Python {environment['python']}, {versions}"
    yield "device", environment["device"]
    yield "weights", weights


def _import_facts(taken: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "imported from", f"`{taken['file']}`, sha256 `{taken['sha256']}`"
    yield "layout", taken["layout"]
    yield "heads kept", ", ".join(taken["heads"]) or "none"
    for why, names in taken["left_out"].items():
        yield "left out", f"{', '.join(names)}: {why}"
    yield "initial values, not the file's", ", ".join(taken["initial"]) or "none"
    if taken["overrides"]:
        yield "changed by --set", ", ".join(taken["overrides"])


def _command(record: Mapping[str, Any]) -> str:
    if "task" in record:
        named = "" if record["task"].get("name") else f" --task {record['task']['key']}"
        retrieval = str(record["task"].get("name", "")).startswith("Retrieval")
        split = f" --split {shlex.quote(record['settings']['val_split'])}" if "settings" in record else ""
        return f"volta-switch {'retrieve' if retrieval else 'evaluate'} --from_pretrained FOLDER{named}{split}"
    return "volta-switch finetune --from_pretrained FOLDER --task TASK1"


def _region_rows(config: Config, given: Mapping[str, Any]) -> Rows:
    rows = [
        ("numbers of a region's features", str(config.v_feature_size)),
        ("numbers of its box", str(config.num_locs)),
        ("region of the whole image", _GLOBAL[config.add_global_imgfeat]),
    ]
    told = ("width", "locations", "global_region")  # the same, as preprocessor.json has it
    shown = {name: _fingerprint(value) if isinstance(value, Mapping) else str(value) for name, value in given.items()}
    return rows + [(name.replace("_", " "), value) for name, value in shown.items() if name not in told]


def _fingerprint(of: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in of.items())


def _test_rows(test: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    told = test_settings(test)
    for metric, found in test["metrics"].items():
        interval = "none"
        if "low" in found:
            interval = f"{found['low']:.2f} to {found['high']:.2f}, over {found['items']} independent items"
        yield {
            "data": task_title(test["name"], test["synthetic"]) + (f" ({told})" if told else ""),
            "split": test["split"],
            "metric": metric_title(metric, test["synthetic"]),
            "score": f"{found['value']:.2f}",
            "interval": interval,
        }


def _seed_rows(entry: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for score in entry["scores"]:
        interval = f"none: {score['problem']}"
        if score.get("low") is not None:
            interval = f"{score['low']:.2f} to {score['high']:.2f}, about new seeds and {score['population']}"
        column = column_title(score["task"], score["metric"], score["synthetic"])
        yield {
            "where": f"{entry['study']}, {entry['table']}, {entry['arm']}",
            "column": f"{column}, {score['scope']}",
            "seeds": ", ".join(map(str, entry["seeds"])),
            "score": f"{score['mean']:.2f}",
            "interval": interval,
        }


def _validation(record: Mapping[str, Any]) -> dict[str, str] | None:
    best = record.get("best_validation", {})
    scores = {name: value for name, value in best.items() if name not in ("epoch", "samples", "score")}
    scores = {name: value for name, value in scores.items() if not name.endswith("_soft_routes")}
    if not scores:
        return None
    epoch = f" after epoch {best['epoch'] + 1} of {record['epochs']}" if "epoch" in best else ""
    synthetic = "synthetic_world" in record["data"]
    said = ", ".join(f"{metric_title(name, synthetic)} {value:.2f}" for name, value in scores.items())
    return {"epoch": epoch, "scores": said}


def _held_equal(entry: Mapping[str, Any]) -> str:
    planned, recorded = entry["settings"]["planned"], entry["settings"]["recorded"]
    return (
        f"Study {_cell(entry['study'])}, table {_cell(entry['table'])}: {_cell(entry['arm'])} beside "
        f"{_cell(', '.join(entry['beside'])) or 'no other'}. It varies {_cell(', '.join(entry['varies']))}. "
        f"Planned settings: {planned['compared']} compared, {planned['equal']} equal{_named(planned)}. "
        f"Recorded by {recorded['runs']} runs: {recorded['compared']} compared, {recorded['equal']} "
        f"equal{_named(recorded)}."
    )


def _named(settings: Mapping[str, Any], shown: int = 8) -> str:
    names = [f"`{_cell(name)}`" for name in settings["differing"]]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"; different: {', '.join(names[:shown])}{more}" if names else ""


def _cited(architecture: str) -> list[str]:
    """Returns whom to cite: the architecture's paper, VOLTA's, and Switch-BERT's, of whose code this is a part."""
    return list(dict.fromkeys([architecture, "volta", "switch-bert"]))


def _bibtex(paper: Mapping[str, Any]) -> str:
    fields = {"title": f"{{{paper['title']}}}", "author": " and ".join(paper["authors"])}
    names = ("booktitle", "journal", "series", "volume", "pages", "year", "doi", "url")
    fields |= {name: paper[name] for name in names if name in paper}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{paper['type']}{{{paper['bibkey']},\n{lines}\n}}"
