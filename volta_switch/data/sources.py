"""Where VOLTA keeps the data sets, for people who lack one (the table in docs/real-data.md)."""

from __future__ import annotations

from dataclasses import dataclass

GUIDE = "https://github.com/e-bug/volta/tree/main/data"
_FILES = "https://sid.erda.dk/sharelink/"
_COCO, _FLICKR = "e4iGIc3xYv", "CrLpUMgIKh"


@dataclass(frozen=True)
class DataSet:
    """A data set: what people call it, the folders in which VOLTA keeps it, and the folder of its example scripts."""

    title: str
    shared: tuple[str, ...]
    examples: str

    @property
    def where(self) -> str:
        """Where to get it, in words."""
        return f"get {self.title} as VOLTA's data guide says ({GUIDE}; its files: {', '.join(self.links)})"

    @property
    def links(self) -> list[str]:
        """The addresses of VOLTA's folders."""
        return [f"{_FILES}{name}" for name in self.shared]


CONCEPTUAL_CAPTIONS = DataSet("Conceptual Captions", ("hPGl0eTED3",), "concap")
DATA_SETS = {  # by the name that VOLTA's task files give the task
    "VQA": DataSet("VQAv2 and MS COCO's features", ("gzyTWulKAa", _COCO), "vqa"),
    "RetrievalCOCO": DataSet("MS COCO", (_COCO,), "coco"),
    "RetrievalFlickr30k": DataSet("Flickr30k", (_FLICKR,), "flickr30k"),
    "refcoco": DataSet("RefCOCO", ("GdBuBzki8m",), "refcoco"),
    "refcoco+": DataSet("RefCOCO+", ("eEqyrN1IVs",), "refcoco+"),
    "refcocog": DataSet("RefCOCOg", ("EPpqybot4p",), "refcocog"),
    "NLVR2": DataSet("NLVR2", ("fEZT4BVb9l",), "nlvr2"),
    "VisualEntailment": DataSet("SNLI-VE and Flickr30k's features", ("g23Gqj9cad", _FLICKR), "snli_ve"),
    "GQA": DataSet("GQA", ("erYmVzgpny",), "gqa"),
}
