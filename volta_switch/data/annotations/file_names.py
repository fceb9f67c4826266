"""Which files hold a split's annotations, by name: the readers open them, and a command that lacks one says so first.

A ``Choice`` is one thing that is needed, by the places where it may lie; the first is where it belongs. Nothing here
opens a file, and nothing is imported that takes time. Every function raises UserError for a split that a data set does
not have.
"""

from __future__ import annotations

from pathlib import Path

from volta_switch.errors import UserError

Choice = tuple[Path, ...]

CAPTIONS = {"train": "caption_train.json", "valid": "caption_valid.json"}  # of Conceptual Captions
LABELS = ("trainval_ans2label.pkl", "trainval_label2ans.pkl")  # of VQA and GQA
VQA_SPLITS = {  # the official files that each split's questions come from
    "train": ("train",),
    "val": ("val",),
    "trainval": ("train", "val"),
    "minval": ("val",),
    "mteval": ("train",),
    "test": ("test",),
    "test-dev": ("test-dev",),
}
GQA_TARGETS = {"train": "train", "val": "val", "trainval": "trainval", "minval": "trainval"}
GQA_TESTDEV = ("test", "testdev")
NLVR2_SPLITS = SNLI_VE_SPLITS = ("train", "dev", "test")


def chosen(choice: Choice) -> Path:
    """The first place where a file is, or where it belongs."""
    return next((place for place in choice if place.is_file()), choice[0])


def vqa_files(dataroot: Path, split: str) -> list[Choice]:
    """VQAv2's labels, questions and targets; those of a test may have none."""
    _check_split(dataroot, "VQA", split, tuple(VQA_SPLITS))
    needed: list[Choice] = [(dataroot / name,) for name in LABELS]
    for name in VQA_SPLITS[split]:
        needed.append((vqa_questions(dataroot, name),))
        if not is_test(name):
            needed.append(vqa_targets(dataroot, name))
    return [*needed, (coco_test_ids(dataroot),)] if split == "mteval" else needed


def vqa_questions(dataroot: Path, name: str) -> Path:
    """The official file of the questions of train, val, test or test-dev."""
    return dataroot / f"v2_OpenEnded_mscoco_{name}{_year(name)}_questions.json"


def vqa_answers(dataroot: Path, name: str) -> Path:
    """The official file of the annotators' answers to the questions of train or val."""
    return dataroot / f"v2_mscoco_{name}{_year(name)}_annotations.json"


def vqa_targets(dataroot: Path, name: str) -> Choice:
    """Soft targets lie in cache/, or where VOLTA's documentation puts them, one level up."""
    return tuple(folder / f"{name}_target.pkl" for folder in (dataroot / "cache", dataroot))


def is_test(name: str) -> bool:
    """Whether an official file of VQA's is a test's, whose answers are not public."""
    return name.startswith("test")


def _year(name: str) -> int:
    return 2015 if is_test(name) else 2014


def gqa_files(dataroot: Path, split: str) -> list[Choice]:
    """GQA's labels, and the file that holds the split."""
    _check_split(dataroot, "GQA", split, (*GQA_TARGETS, *GQA_TESTDEV))
    return [*((dataroot / name,) for name in LABELS), (gqa_questions(dataroot, split),)]


def gqa_questions(dataroot: Path, split: str) -> Path:
    """The targets of a split that is trained on, or the questions of testdev."""
    if split in GQA_TESTDEV:
        return dataroot / "testdev_balanced_questions.json"
    return dataroot / f"{GQA_TARGETS[split]}_target.pkl"


def refer_files(dataroot: Path, task: str, split: str) -> list[Choice]:
    """The references of RefCOCO, RefCOCO+ or RefCOCOg, of all splits, and COCO's boxes."""
    needed: list[Choice] = [(refer_references(dataroot, task),), (refer_boxes(dataroot, task),)]
    return [*needed, (coco_test_ids(dataroot),)] if split == "mteval" else needed


def refer_references(dataroot: Path, task: str) -> Path:
    """The expressions as REFER stores them."""
    return dataroot / task / f"refs({'umd' if task == 'refcocog' else 'unc'}).p"


def other_splits(path: Path) -> str:
    """Name, in brackets for a message, the references with other splits that lie beside a file of them."""
    beside = sorted(other.name for other in path.parent.glob("refs(*).p")) if path.name.startswith("refs(") else []
    return (
        f" (beside it {', '.join(beside)}, with other splits than those that results are reported by)" if beside else ""
    )


def refer_boxes(dataroot: Path, task: str) -> Path:
    """COCO's annotations of the images of a task."""
    return dataroot / task / "instances.json"


def coco_test_ids(dataroot: Path) -> Path:
    """COCO's images that other tasks are tested on, which split "mteval" is made of."""
    return dataroot / "cache" / "coco_test_ids.npy"


def nlvr2_files(dataroot: Path, split: str, given: Path | None = None) -> list[Choice]:
    """NLVR2's statements; ``given``: another file, for any split."""
    if given is not None:
        return [(given,)]
    _check_split(dataroot, "NLVR2", split, NLVR2_SPLITS)
    return [(dataroot / f"{split}.jsonl", dataroot / f"{split}.json")]


def snli_ve_files(dataroot: Path, split: str, given: Path | None = None) -> list[Choice]:
    """SNLI-VE's pairs; ``given``: another file, for any split."""
    if given is not None:
        return [(given,)]
    _check_split(dataroot, "SNLI-VE", split, SNLI_VE_SPLITS)
    return [(dataroot / f"{split}.jsonl", dataroot / f"snli_ve_{split}.jsonl")]


def hard_negatives(dataroot: Path) -> Path:
    """The images that resemble each image, for retrieval's training."""
    return dataroot / "hard_negative.pkl"


def _check_split(dataroot: Path, data_set: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise UserError(f"{dataroot}: {data_set} has no split {split!r}; expected {', '.join(known)}")
