"""What an annotation file is, by its content, and which images it needs features of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json, read_json_lines
from volta_switch.data.geometry import Geometry
from volta_switch.data.image_ids import id_text, plain_id
from volta_switch.data_tools.check import Report, add_geometry
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import WRONG, Box, corners, id_field, reason, text_field
from volta_switch.tasks.gqa import gqa_question
from volta_switch.tasks.nlvr2 import nlvr2_entry
from volta_switch.tasks.retrieval_dataset import retrieval_entry
from volta_switch.tasks.snli_ve import IMAGE, snli_ve_entry
from volta_switch.tasks.vqa_files import vqa_question

SUFFIXES = (".json", ".jsonl", ".pkl", ".p")
_SPLITS = re.compile(r"testdev|trainval|train|valid|val|dev|minval|test")
_SAME = {"valid": "val", "dev": "val", "testdev": "test"}
ANSWER_MAPS = ("answer to label", "label to answer")
_UNKNOWN = "not a known annotation file"


def check_annotations(path: Path) -> list[Report]:
    """Reports an annotation file, or all known ones below a directory with what they say of each other."""
    if path.is_dir():
        contents = [(file, *_checked(file)) for file in annotation_files(path)]
        known = [(file, report, content) for file, report, content in contents if report.format != _UNKNOWN]
        if not known:
            return [
                Report(str(path), _UNKNOWN, problems=[f"no annotation file among its {len(contents)} JSON, pickles"])
            ]
        _check_together(known)
        return [report for _, report, _ in known]
    report, _ = _checked(path)
    if report.format == _UNKNOWN:
        report.problems.append("expected annotations (JSON, JSON lines, pickle), features or a task file (.yml)")
    return [report]


def split_of(path: Path) -> str:
    """Guesses the split from a file's name: train, val, test, ...; "" where it names none."""
    found = _SPLITS.findall(path.stem.lower())
    return _SAME.get(found[-1], found[-1]) if found else ""


def splits_in(split: str) -> set[str]:
    """Returns the splits of files that a task's split is made of: trainval -> train and val."""
    parts = {"trainval": {"train", "val", "trainval"}, "minval": {"val", "trainval"}}
    if split == "test":
        return {"test", "testA", "testB"}
    name = _SAME.get(split, split)
    return parts.get(name, {name})


def annotation_files(folder: Path) -> list[Path]:
    """Returns the files below a folder that may be annotations; VOLTA's caches of tokens are none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return [file for file in files if file.parent.name != "cache" or file.stem.endswith("_target")]


def _checked(path: Path) -> tuple[Report, Any]:
    try:
        content = _content(path)
        name, read = next(((name, read) for name, fits, read in _KINDS if fits(content)), (_UNKNOWN, None))
    except UserError as error:
        return Report(str(path), "unreadable", problems=[str(error)]), None
    report = Report(str(path), name)
    if read is not None:
        try:
            read(content, report, split_of(path))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            report.problems.append(f"not laid out as expected ({error!r}); take the file from its release again")
    return report, content


def _content(path: Path) -> Any:
    if path.suffix in (".pkl", ".p"):
        return safe_pickle.load(path)
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    try:
        return read_json(path)
    except UserError:
        try:
            return read_json_lines(path)  # NLVR2's are named .json at times
        except UserError:
            pass
        raise


def _each(items: Iterable[Any], report: Report, image_ids: Callable[[Any], Iterable[str]], split: str) -> None:
    """Gathers the images of entries; those that their reader would refuse are bad records."""
    found = report.image_ids.setdefault(split, set())
    for number, item in enumerate(items, start=1):
        try:
            found.update(image_ids(item))
        except WRONG as error:
            report.add_bad(f"{report.path}, entry {number}: {reason(error)}")


def _read_refs(content: Any, report: Report, _: str) -> None:
    for split in sorted({str(ref.get("split")) for ref in content}):
        _each((ref for ref in content if ref.get("split") == split), report, _ref_image, split)
    sentences = Counter(str(ref.get("split")) for ref in content for _ in ref.get("sentences", ()))
    report.counts.update(refs=len(content), expressions=dict(sorted(sentences.items())))


def _ref_image(ref: Mapping[str, Any]) -> list[str]:
    for name in ("ref_id", "ann_id"):
        id_field(ref, name)
    if len(ref["sentences"]) != len(ref["sent_ids"]):
        raise ValueError(f"ref {ref['ref_id']} has {len(ref['sentences'])} sentences, {len(ref['sent_ids'])} ids")
    for sentence in ref["sentences"]:
        text_field(sentence, "raw")
    return [id_field(ref, "image_id")]


def _read_instances(content: Any, report: Report, _: str) -> None:
    report.counts.update(images=len(content["images"]), boxes=len(content["annotations"]))
    report.counts["categories"] = len(content.get("categories", ()))
    sizes = {id_field(image, "id"): (image.get("width"), image.get("height")) for image in content["images"]}
    boxes: dict[str, list[Box]] = {}
    for number, item in enumerate(content["annotations"], start=1):
        try:
            boxes.setdefault(id_field(item, "image_id"), []).append(corners(item["bbox"]))
        except WRONG as error:
            report.add_bad(f"{report.path}, annotation {number}: {reason(error)}")
    geometry = Geometry()
    for image_id, own in boxes.items():
        width, height = sizes.get(image_id, (None, None))
        if width and height:
            geometry.add(np.array(own), float(width), float(height), annotated=True)
    add_geometry(report, geometry)
    if geometry.images < len(boxes):
        unknown = len(boxes) - geometry.images
        report.notes.append(
            f"boxes of {unknown} images were not compared with the image: its width and height are not there"
        )


def _read_questions(content: Any, report: Report, split: str) -> None:
    report.counts["questions"] = len(content["questions"])
    _each(content["questions"], report, lambda question: [vqa_question(question, 0)["image_id"]], split)


def _read_answers(content: Any, report: Report, _: str) -> None:
    report.counts.update(answered=len(content["annotations"]))


def _read_gqa_questions(content: Any, report: Report, split: str) -> None:
    report.counts["questions"] = len(content)
    _each(content.values(), report, lambda question: [gqa_question(question)[0]], split)


def _read_targets(content: Any, report: Report, split: str) -> None:
    def image_ids(target: Mapping[str, Any]) -> list[str]:
        if len(target["labels"]) != len(target["scores"]):
            raise ValueError(f"question {target['question_id']} has unequal numbers of labels and scores")
        if "question" in target:  # GQA's
            text_field(target, "question")
        return [id_field(target, "image_id")]

    _each(content, report, image_ids, split)
    highest = max((max(map(int, target["labels"]), default=-1) for target in content), default=-1)
    unanswered = sum(not len(target["labels"]) for target in content)
    report.counts.update(targets=len(content), labels=highest + 1, without_a_label=unanswered)


def _read_label_map(content: Any, report: Report, _: str) -> None:
    report.counts["answers"] = len(content)
    labels = sorted(content.values()) if isinstance(content, dict) else list(range(len(content)))
    if labels != list(range(len(content))) or (isinstance(content, list) and len(set(content)) < len(content)):
        report.problems.append("labels are not 0, 1, 2, ..., one for each answer; make them with `data vqa-targets`")


def _read_captions(content: Any, report: Report, split: str) -> None:
    def image_ids(line: Mapping[str, Any]) -> list[str]:
        number = plain_id(str(line.get("img_path"))).isdecimal()  # Flickr30k's, else COCO's id
        return [retrieval_entry(line, "img_path" if number else "id")[0]]

    _each(content, report, image_ids, split)
    report.counts.update(images=len(content), captions=sum(len(line.get("sentences", ())) for line in content))


def _read_hard_negatives(content: Any, report: Report, _: str) -> None:
    pool, listed = np.asarray(content["train_hard_pool"]), content["train_image_list"]
    report.counts.update(images=len(listed), pool=pool.shape[1])
    report.image_ids["train"] = {id_text(name) for name in listed}
    if len(pool) != len(listed) or (pool.size and (pool.min() < 0 or pool.max() >= len(listed))):
        report.problems.append("train_hard_pool does not fit train_image_list; take the file from its release again")


def _read_nlvr2(content: Any, report: Report, split: str) -> None:
    _each(content, report, lambda line: nlvr2_entry({"label": True, **line}, 0).image_ids, split)
    report.counts["statements"] = len(content)


def _read_snli_ve(content: Any, report: Report, split: str) -> None:
    _each(content, report, lambda line: [snli_ve_entry(line, 0).image_id], split)
    report.counts.update(pairs=len(content), labels=dict(Counter(str(line.get("gold_label")) for line in content)))


def _read_concap_captions(content: Any, report: Report, _: str) -> None:
    report.counts["captions"] = len(content)
    empty = [name for name, text in content.items() if not text.strip()]
    if empty:
        report.problems.append(f"{len(empty)} captions are empty, first of image {empty[0]}; leave them out")


def _first(content: Any) -> dict[str, Any]:
    """Returns the first entry of a list of dictionaries; {} for anything else."""
    return content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda content: all(name in _first(content) for name in names)


def _values_are(kind: type) -> Callable[[Any], bool]:
    def fits(content: Any) -> bool:
        return isinstance(content, dict) and bool(content) and all(isinstance(v, kind) for v in content.values())

    return fits


def _holds(*names: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and all(name in content for name in names)


def _is_answered(content: Any) -> bool:
    return _holds("annotations")(content) and "answers" in _first(content["annotations"])


def _is_gqa(content: Any) -> bool:
    return _values_are(dict)(content) and all("imageId" in question for question in content.values())


def _is_answer_list(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(answer, str) for answer in content)


def _is_snli_ve(content: Any) -> bool:
    return "sentence2" in _first(content) and any(name in _first(content) for name in IMAGE)


_Reader = Callable[[Any, Report, str], None]
_KINDS: tuple[tuple[str, Callable[[Any], bool], _Reader], ...] = (
    ("referring expressions (refs)", _has("ref_id", "sentences"), _read_refs),
    ("COCO instances", _holds("images", "annotations"), _read_instances),
    ("VQA questions", _holds("questions"), _read_questions),
    ("VQA answers", _is_answered, _read_answers),
    ("GQA questions", _is_gqa, _read_gqa_questions),
    ("VQA or GQA soft targets", _has("question_id", "labels", "scores"), _read_targets),
    ("hard negatives", _holds("train_hard_pool", "train_image_list"), _read_hard_negatives),
    ("retrieval captions", _has("sentences"), _read_captions),
    ("NLVR2 statements", _has("identifier", "sentence"), _read_nlvr2),
    ("SNLI-VE pairs", _is_snli_ve, _read_snli_ve),
    ("answer to label", _values_are(int), _read_label_map),
    ("label to answer", _is_answer_list, _read_label_map),
    ("Conceptual Captions' captions", _values_are(str), _read_concap_captions),
)


def _check_together(known: list[tuple[Path, Report, Any]]) -> None:
    """Compares files that belong together: refs and instances, questions and targets, label maps and targets."""
    by_kind: dict[str, list[tuple[Path, Report, Any]]] = {}
    for entry in known:
        by_kind.setdefault(entry[1].format, []).append(entry)
    for path, report, refs in by_kind.get("referring expressions (refs)", []):
        for other, _, instances in by_kind.get("COCO instances", []):
            if other.parent == path.parent:
                boxes = {str(item.get("id")) for item in instances["annotations"]}
                _add_missing(report, "refs", [str(ref.get("ann_id")) for ref in refs], boxes, other.name)
    for path, report, targets in by_kind.get("VQA or GQA soft targets", []):
        for other, _, content in by_kind.get("VQA questions", []):
            if split_of(other) == split_of(path):
                asked = {str(question.get("question_id")) for question in content["questions"]}
                answered = [str(target.get("question_id")) for target in targets]
                _add_missing(report, "targets", answered, asked, other.name)
                _add_missing(report, "questions", list(asked), set(answered), path.name)
    for _, targets_report, _ in by_kind.get("VQA or GQA soft targets", []):
        for other, labels_report, _ in by_kind.get("answer to label", []):
            if targets_report.counts.get("labels", 0) > labels_report.counts.get("answers", 0):
                targets_report.problems.append(
                    f"labels up to {targets_report.counts['labels'] - 1}, but {other.name} has "
                    f"{labels_report.counts['answers']} answers; take both files from one release"
                )


def _add_missing(report: Report, what: str, ids: list[Any], known: set[Any], name: str) -> None:
    missing = [one for one in ids if one not in known]
    if missing:
        report.problems.append(
            f"{len(missing)} {what} have no counterpart in {name}, first {missing[0]}; take both files from one release"
        )
