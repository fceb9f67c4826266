"""Our public readers on VOLTA's fixture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from small_regions import DETECTIONS
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks.nlvr2 import Nlvr2Dataset, load_nlvr2
from volta_switch.tasks.refer import ReferDataset, load_refer
from volta_switch.tasks.retrieval_dataset import load_hard_negatives, load_retrieval
from volta_switch.tasks.vqa import VqaDataset, load_vqa

VOLTA_DATA = Path(__file__).parent.parent / "fixtures" / "volta_data"
READS = VOLTA_DATA.with_name("volta_reads")
DATA = VOLTA_DATA / "datasets"
CONCAP, FLICKR, VQA = DATA / "conceptual_captions", DATA / "flickr30k", DATA / "vqa" / "annotations"
REFER, NLVR2 = DATA / "refcoco+_unc" / "annotations", DATA / "nlvr2" / "annotations"
FEATURES = {
    "flickr30k": FLICKR / DETECTIONS / "flickr30k_feat.lmdb",
    "mscoco": DATA / "mscoco" / DETECTIONS / "trainval_feat.lmdb",
    "nlvr2": DATA / "nlvr2" / DETECTIONS / "nlvr2_feat.lmdb",
    "refcoco+": DATA / "refcoco+_unc" / DETECTIONS / "refcoco+_unc_dets36_feat.lmdb",
}
TOKENIZER = Tokenizer(VOLTA_DATA / "bert-tiny-tok")


def features(name: str, in_memory: bool = False) -> FeatureStore:
    return open_features(FEATURES[name], 2048, in_memory=in_memory)


def captions(split: str, **options) -> ConcapDataset:
    """Nothing masked, and no caption of another image."""
    folders = (CONCAP / DETECTIONS, CONCAP / "annotations")
    return ConcapDataset(*folders, split, TOKENIZER, num_locs=5, masking=None, max_seq_length=38, **options)


def expressions(split: str, num_locs: int = 5) -> ReferDataset:
    entries = load_refer(REFER, "refcoco+", split)
    return ReferDataset(entries, features("refcoco+"), TOKENIZER, num_locs=num_locs, max_seq_length=20)


def questions(split: str) -> VqaDataset:
    return VqaDataset(load_vqa(VQA, split, 50), features("mscoco"), TOKENIZER, num_locs=5, max_seq_length=23)


def statements(split: str) -> Nlvr2Dataset:
    return Nlvr2Dataset(load_nlvr2(NLVR2, split), features("nlvr2"), TOKENIZER, num_locs=5, max_seq_length=40)


def hard_negatives() -> np.ndarray:
    """(60, 3)."""
    return load_hard_negatives(FLICKR / "hard_negative.pkl", load_retrieval(FLICKR / "annotations" / "train_ann.jsonl"))
