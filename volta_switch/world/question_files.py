"""Writing questions and answers: VQAv2's files and GQA's, in VOLTA's formats."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from volta_switch.data.files import safe_pickle
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.world.balance import annotator_scores
from volta_switch.world.content import World
from volta_switch.world.json_files import write_json
from volta_switch.world.paths import GQA, GQA_FEATURES, VQA, VQA_FEATURES, VQA_TEST_FEATURES
from volta_switch.world.questions import LABELS, Question
from volta_switch.world.vocabulary import Lexicon

VQA_YEARS = {"train": "train2014", "val": "val2014", "test": "test2015"}
LABEL_OF = {answer: index for index, answer in enumerate(LABELS)}


def write_vqa(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write VQA's questions, annotations by ten people, soft targets and answer vocabulary."""
    for split, year in VQA_YEARS.items():
        questions, annotations, targets = [], [], []
        for entry in world.vqa[split]:
            for number, (question, reply, given) in enumerate(entry.questions):
                ids = {"image_id": entry.scene.image_id, "question_id": 10 * entry.scene.image_id + number}
                questions.append({**ids, "question": lexicon.spell(question.words())})
                annotations.append({**ids, **_annotation(question, reply, given)})
                targets.append({**ids, **_target(given)})
        write_json(root / VQA / f"v2_OpenEnded_mscoco_{year}_questions.json", {"questions": questions})
        write_json(root / VQA / f"v2_mscoco_{year}_annotations.json", {"annotations": annotations})
        safe_pickle.dump(root / VQA / "cache" / f"{split}_target.pkl", targets)
    _write_labels(root / VQA)
    write_features(root / VQA_FEATURES, chain(world.regions("vqa", "train"), world.regions("vqa", "val")))
    write_features(root / VQA_TEST_FEATURES, world.regions("vqa", "test"))


def _target(given: tuple[str, ...]) -> dict[str, list]:
    scores = annotator_scores(given)
    return {"labels": [LABEL_OF[answer] for answer in scores], "scores": list(scores.values())}


def _write_labels(folder: Path) -> None:
    safe_pickle.dump(folder / "trainval_ans2label.pkl", LABEL_OF)
    safe_pickle.dump(folder / "trainval_label2ans.pkl", list(LABELS))


def _annotation(question: Question, reply: str, given: tuple[str, ...]) -> dict:
    """Return the official annotation of one question, without its ids."""
    answer_types = {"count": "number", "exists": "yes/no"}
    return {
        "question_type": question.kind,
        "answer_type": answer_types.get(question.kind, "other"),
        "multiple_choice_answer": reply,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": 1 + person}
            for person, answer in enumerate(given)
        ],
    }


def gqa_name(image_id: int | str) -> str:
    """Return an image's name in GQA's files, where images of Visual Genome have numbers and others "n" and a number."""
    return f"n{image_id}" if int(image_id) % 2 else str(image_id)


def write_gqa(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write GQA's questions with their one answer, and the official file of the test questions."""
    targets: dict[str, list[dict]] = {"train": [], "val": []}
    tests: dict[str, dict] = {}
    for split, entries in world.gqa.items():
        for entry in entries:
            image = gqa_name(entry.scene.image_id)
            for number, (question, reply, given) in enumerate(entry.questions):
                question_id, text = f"{10 * entry.scene.image_id + number:09}", lexicon.spell(question.words())
                if split == "test":
                    tests[question_id] = {"imageId": image, "question": text, "answer": reply, "isBalanced": True}
                else:
                    target = {"question_id": question_id, "image_id": image, "question": text, **_target(given)}
                    targets[split].append(target)
    for name, part in {**targets, "trainval": targets["train"] + targets["val"]}.items():
        safe_pickle.dump(root / GQA / f"{name}_target.pkl", part)
    write_json(root / GQA / "testdev_balanced_questions.json", tests)
    (root / GQA / "cache").mkdir()  # VOLTA writes into it and does not create it
    _write_labels(root / GQA)
    write_features(root / GQA_FEATURES, chain.from_iterable(_gqa_regions(world, split) for split in world.gqa))


def _gqa_regions(world: World, split: str) -> Iterator[Regions]:
    for regions in world.regions("gqa", split):
        yield replace(regions, image_id=gqa_name(regions.image_id))
