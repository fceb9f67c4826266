"""Where a world's data sets lie: VOLTA's paths, relative to the world's folder."""

from dataclasses import dataclass
from pathlib import Path

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
