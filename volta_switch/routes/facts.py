"""What a task's data say about each sample, to set routes against."""

from __future__ import annotations

from collections import Counter
from typing import Any

from volta_switch.data.annotations.fields import id_field, text_field
from volta_switch.data.annotations.file_names import VQA_SPLITS, vqa_answers
from volta_switch.data.annotations.nlvr2 import Nlvr2Entry
from volta_switch.data.annotations.refer import ReferEntry
from volta_switch.data.annotations.vqa import VqaEntry
from volta_switch.data.batches.retrieval_dataset import RetrievalDataset
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import plain_id
from volta_switch.errors import UserError
from volta_switch.routes.record import Record
from volta_switch.tasks import Task
from volta_switch.tasks.refer import ReferTask
from volta_switch.tasks.vqa import VqaTask


def facts(task: Task, split: str, record: Record) -> dict[str, list[Any]]:
    """Name -> a value for each counted row.

    Always ``text length`` (word pieces) and ``regions``; ``question type`` where VQA's official annotations lie beside
    the questions; ``objects``, the annotated ones of the image, for referring expressions.
    """
    known: dict[str, list[Any]] = {
        "text length": record.text_lengths[record.counted].tolist(),
        "regions": record.regions[record.counted].tolist(),
    }
    names = [name for name, counted in zip(record.ids, record.counted, strict=True) if counted]
    if isinstance(task, VqaTask):
        types = _question_types(task, split)
        if types and all(name in types for name in names):
            known["question type"] = [types[name] for name in names]
    if isinstance(task, ReferTask):
        objects = _objects(task)
        known["objects"] = [objects[plain_id(task.entries[name].image_id)] for name in names]
    return known


def shown(task: Task, split: str, record: Record) -> dict[str, list[Any]]:
    """``ids``, ``images`` and ``texts`` of the counted rows, for a page that shows a route beside what it is about."""
    dataset = task.dataset(split, training=False)
    about: dict[str, list[tuple[str, str]]] = {}  # id -> image and text of each of its rows
    if isinstance(dataset, RetrievalDataset):
        known = dataset.annotations
        for caption, (text, image) in enumerate(zip(known.captions, known.caption_image, strict=True)):
            about[str(caption)] = [(str(known.image_ids[image]), text)]
    for entry in getattr(dataset, "entries", ()):
        if isinstance(entry, VqaEntry):
            about[str(entry.question_id)] = [(str(entry.image_id), entry.question)]
        elif isinstance(entry, ReferEntry):
            about[str(entry.sent_id)] = [(str(entry.image_id), entry.caption)]
        elif isinstance(entry, Nlvr2Entry):
            about[entry.identifier] = [(str(image), entry.sentence) for image in entry.image_ids]
    taken: Counter[str] = Counter()  # rows of each sample so far
    lists: dict[str, list[Any]] = {"ids": [], "images": [], "texts": []}
    for name, counted in zip(record.ids, record.counted, strict=True):
        if counted:
            image, text = about[name][taken[name]]
            taken[name] += 1
            for key, value in (("ids", name), ("images", image), ("texts", text)):
                lists[key].append(value)
    return lists


def _question_types(task: VqaTask, split: str) -> dict[str, str]:
    paths = [vqa_answers(task.spec.path(task.spec.dataroot), part) for part in VQA_SPLITS[split]]
    types: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            return {}
        try:
            annotations = read_json(path)["annotations"]
            types |= {id_field(item, "question_id"): text_field(item, "question_type") for item in annotations}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected VQA's annotations with question_id and question_type ({error!r})"
            ) from None
    return types


def _objects(task: ReferTask) -> Counter[str]:
    """Annotated objects of each image."""
    path = task.spec.path(task.spec.dataroot) / task.spec.name / "instances.json"
    try:
        return Counter(plain_id(id_field(item, "image_id")) for item in read_json(path)["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected COCO's annotations with image_id ({error!r})") from None
