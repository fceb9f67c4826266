"""What tests of retrieval over all pairs share: where things lie, how a run is stopped, what a finished one leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from synthetic_world import json_of
from volta_switch.checksums import SUMS
from volta_switch.tasks import retrieval_scores
from volta_switch.tasks.retrieval_scores import PairScorer

PART = 3  # images of a part in these tests
PARTS = 4  # of the test split, which has ten images
RUN = Path("RetrievalFlickr30k_ctrl_uniter")


def annotations_of_the_test_split(world):
    return world.path / "datasets/flickr30k/annotations/test_ann.jsonl"


def scores_in(out):
    return np.load(out / RUN / "test_scores.npy", allow_pickle=False)


def check_finished(out, result, whole):
    """The same results and the same scores, bit for bit, and no part left."""
    assert np.array_equal(scores_in(out), whole.scores), np.abs(scores_in(out) - whole.scores).max()
    assert result == whole.result
    assert json_of(out / RUN / "test_result.json") == whole.result.results
    assert sorted(path.name for path in (out / RUN).iterdir()) == [
        "test_metrics.json", "test_ranks.json", "test_result.json", "test_scores.npy", SUMS
    ]  # fmt: skip


def part_of(out, number):
    """The file of a part."""
    (path,) = (out / RUN / "test_scores").glob(f"part_*_{number:05d}.npy")
    return path


def rewrite(part, scores):
    """Writes other scores into a part, as a process that computed them would have."""
    np.save(part, scores)
    whole = part.read_bytes()
    part.write_bytes(whole + hashlib.sha256(whole).digest())


def stop_in_part(number, error, monkeypatch):
    """Raises an error in the middle of a part."""
    score_pairs, part = retrieval_scores.score_pairs, PairScorer.part
    now = SimpleNamespace(part=-1, block=0)

    def counted(scorer, images, progress):
        now.part, now.block = now.part + 1, 0
        return part(scorer, images, progress)

    def scores(*given):
        now.block += 1
        if (now.part, now.block) == (number, 3):
            raise error
        return score_pairs(*given)

    monkeypatch.setattr(PairScorer, "part", counted)
    monkeypatch.setattr(retrieval_scores, "score_pairs", scores)
