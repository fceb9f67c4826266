"""Where a world's data sets lie, by VOLTA's paths, and the task file that names them."""

from dataclasses import dataclass
from pathlib import Path

from volta_switch.world.questions import LABELS
from volta_switch.world.spec import MAX_OBJECTS, WorldSpec

# Paths are relative to the world's folder.
DETECTOR = "resnet101_faster_rcnn_genome_imgfeats/volta"
CONCAP = Path("datasets/conceptual_captions")
VQA = Path("datasets/vqa/annotations")
NLVR2 = Path("datasets/nlvr2/annotations")
GQA = Path("datasets/gqa/annotations")
SNLI_VE = Path("datasets/snli_ve/annotations")
# Of the data sets that lie one folder deep: flickr30k ("retrieval") and mscoco ("coco").
RETRIEVAL = {"retrieval": Path("datasets/flickr30k"), "coco": Path("datasets/mscoco")}
CONCAP_FEATURES = CONCAP / DETECTOR
VQA_FEATURES = RETRIEVAL["coco"] / DETECTOR / "trainval_feat.lmdb"
VQA_TEST_FEATURES = VQA_FEATURES.with_name("test_feat.lmdb")
RETRIEVAL_FEATURES = {
    "retrieval": RETRIEVAL["retrieval"] / DETECTOR / "flickr30k_feat.lmdb",
    "coco": VQA_FEATURES,  # VQA's images are COCO's
}
NLVR2_FEATURES = NLVR2.parent / DETECTOR / "nlvr2_feat.lmdb"
GQA_FEATURES = GQA.parent / DETECTOR / "vg_gqa_feat.lmdb"
ENTITIES = Path("datasets/flickr30k_entities")
ENTITIES_FEATURES = ENTITIES / DETECTOR / "flickr30k_entities_feat.lmdb"


@dataclass(frozen=True)
class ReferLayout:
    """How one set of referring expressions is laid out on disk.

    Attributes:
        task: VOLTA's name of the task and of the folder of annotations.
        split_by: the university whose splits they are, in the name of the file of expressions.
        tests: the test splits; images alternate between them.
    """

    task: str
    split_by: str
    tests: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of the data set."""
        return Path("datasets") / self._name

    @property
    def annotations(self) -> Path:
        """The folder that VOLTA calls the data root."""
        return self.folder / "annotations"

    @property
    def features(self) -> Path:
        """The regions that the detector found."""
        return self.folder / DETECTOR / f"{self._name}_dets36_feat.lmdb"

    @property
    def exact_features(self) -> Path:
        """The regions of the annotated boxes."""
        return self.folder / DETECTOR / f"{self._name}_gt_feat.lmdb"

    @property
    def _name(self) -> str:
        return f"{self.task}_{self.split_by}"


REFER = {
    "refer": ReferLayout("refcoco+", "unc", ("testA", "testB")),
    "refcoco": ReferLayout("refcoco", "unc", ("testA", "testB")),
    "refcocog": ReferLayout("refcocog", "umd", ("test",)),
}

# Of each data set: VOLTA's number of the task, its name, head, number of labels, loss, process, validation split.
TASKS = {
    "vqa": (1, "VQA", "VL-classifier", len(LABELS), "BCEWithLogitLoss", "normal", "val"),
    "coco": (7, "RetrievalCOCO", "VL-logit", 1, "CrossEntropyLoss", "retrieval", "val"),
    "retrieval": (8, "RetrievalFlickr30k", "VL-logit", 1, "CrossEntropyLoss", "retrieval", "val"),
    "refcoco": (9, "refcoco", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "refer": (10, "refcoco+", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "refcocog": (11, "refcocog", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "nlvr2": (12, "NLVR2", "VL-binary-classifier", 2, "BCEWithLogitLoss", "nlvr", "dev"),
    "snli_ve": (13, "VisualEntailment", "VL-tri-classifier", 3, "BCEWithLogitLoss", "normal", "dev"),
    "gqa": (15, "GQA", "VL-classifier-GQA", len(LABELS), "BCEWithLogitLoss", "normal", "val"),
}


def task_file(spec: WorldSpec, lengths: dict[str, int]) -> dict[str, dict]:
    """Returns the task file in VOLTA's format; texts are never cut, paths are relative to the world's folder."""
    return {
        f"TASK{fields[0]}": _task(spec, data_set, lengths[data_set])
        for data_set, fields in TASKS.items()
        if data_set in spec.data_sets
    }


def ablation_file(spec: WorldSpec, lengths: dict[str, int]) -> dict[str, dict]:
    """Returns the task file of VOLTA's cross-modal ablation, which keeps it apart from those of trained tasks."""
    return {
        "TASK18": {
            **{"name": "FlickrGrounding", "type": "V-logit", "loss": "BCEWithLogitLoss", "process": "normal"},
            "task_id": 18,
            "dataroot": f"{_posix(ENTITIES)}/",
            "features_h5path1": _posix(ENTITIES_FEATURES),
            **{"features_h5path2": "", "train_annotations_jsonpath": "", "val_annotations_jsonpath": ""},
            "max_seq_length": lengths["entities"],
            "max_region_num": spec.boxes or MAX_OBJECTS,
            "batch_size": 16,
            **{"train_split": "", "val_split": "val"},
        }
    }


def _task(spec: WorldSpec, data_set: str, length: int) -> dict:
    number, name, head, labels, loss, process, val_split = TASKS[data_set]
    return {
        "name": name,
        "type": head,
        "num_labels": labels,
        "loss": loss,
        "process": process,
        "task_id": number,
        **_paths(data_set),
        "max_seq_length": length,
        "max_region_num": spec.boxes or MAX_OBJECTS,
        "batch_size": 64,
        "eval_batch_size": 512,
        "train_split": "train",
        "val_split": val_split,
        "lr": 1e-4,
        "num_epoch": 20,
    }


def _paths(data_set: str) -> dict[str, str]:
    exact = train = val = None
    if data_set in REFER:
        layout = REFER[data_set]
        root, features, exact = layout.annotations, layout.features, layout.exact_features
    elif data_set in RETRIEVAL:
        root, features = RETRIEVAL[data_set], RETRIEVAL_FEATURES[data_set]
        train, val = (root / "annotations" / f"{name}_ann.jsonl" for name in ("train", "valid"))
    else:
        root, features = _PLAIN[data_set]
    return {
        "dataroot": _posix(root),
        "features_h5path1": _posix(features),
        "features_h5path2": _posix(exact),
        "train_annotations_jsonpath": _posix(train),
        "val_annotations_jsonpath": _posix(val),
    }


def _posix(path: Path | None) -> str:
    return path.as_posix() if path else ""


_PLAIN = {
    "vqa": (VQA, VQA_FEATURES),
    "nlvr2": (NLVR2, NLVR2_FEATURES),
    "snli_ve": (SNLI_VE, RETRIEVAL_FEATURES["retrieval"]),
    "gqa": (GQA, GQA_FEATURES),
}
