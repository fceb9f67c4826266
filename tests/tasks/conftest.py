"""Evaluations of retrieval over all pairs, by the real entry point."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tasks.all_pairs import PART, annotations_of_the_test_split, scores_in, stop_in_part
from volta_switch.tasks import retrieval_scores
from volta_switch.tasks.retrieval_scores import PairScorer
from volta_switch.train import evaluation


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three images."""
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", PART)


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    torch.save(world.task_model(world.task("retrieval", world.config("ctrl_uniter"))).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def command(world, weights):
    """The command line of an evaluation of the test split that keeps its scores: command(out, more flags)."""

    def line(out, *more):
        own = ["--from_pretrained", weights, "--split", "test", "--batch_size", 16, "--keep_scores"]
        return [str(flag) for flag in (*world.flags("eval_retrieval", out, "ctrl_uniter", "retrieval"), *own, *more)]

    return line


@pytest.fixture(scope="module")
def evaluate(command):
    """Runs that command in this process."""
    return lambda out, *more: evaluation.main_retrieval(command(out, *more))


@pytest.fixture(scope="module")
def whole(evaluate, tmp_path_factory):
    """An undisturbed run: its result and its scores."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_scores, "PART_IMAGES", PART)
        return SimpleNamespace(result=evaluate(out), scores=scores_in(out))


@pytest.fixture
def scored(monkeypatch):
    """The first image of every part that is scored, in order."""
    parts, plain = [], PairScorer.part

    def part(scorer, images, progress):
        parts.append(images.start)
        return plain(scorer, images, progress)

    monkeypatch.setattr(PairScorer, "part", part)
    return parts


@pytest.fixture
def begun(evaluate, tmp_path, monkeypatch):
    """A folder with two finished parts."""
    with monkeypatch.context() as patch:
        stop_in_part(2, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def larger(world, command, tmp_path):
    """The command for the images of all splits, enough for two parts of the size that scripts make."""
    folder = annotations_of_the_test_split(world).parent
    lines = [line for path in sorted(folder.glob("*_ann.jsonl")) for line in path.read_text().splitlines()]
    assert len(lines) == 32
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    return lambda out, *more: command(
        out, "--val_annotations_jsonpath", tmp_path / "all.jsonl", "--batch_size", 128, *more
    )
