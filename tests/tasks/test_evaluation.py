"""Evaluation counts every sample once; results are in submission format; all pairs are scored as one by one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from synthetic_world import TASKS
from volta_switch import BertForVLPreTraining, UserError
from volta_switch.tasks import retrieval_scores
from volta_switch.tasks.metrics import retrieval_metrics
from volta_switch.tasks.refer import load_refer
from volta_switch.tasks.retrieval_dataset import load_retrieval
from volta_switch.tasks.vqa import load_vqa

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(world):
    return world.config("ctrl_uniter")


@pytest.mark.parametrize("name", TASKS)
def test_every_sample_counts_once_whatever_the_batches(world, config, name):
    task = world.task(name, config)
    model = world.task_model(task)
    samples = len(task.dataset("val", training=False))
    rest = next(size for size in (7, 9, 11) if samples % size)  # a size that leaves a smaller last batch
    sizes = (samples, rest, samples - 1)  # the third: the last batch holds a single sample
    whole, odd, last = (task.evaluate(model, task.loader("val", size, False), CPU) for size in sizes)
    assert len(whole.results) == len(odd.results) == samples
    assert odd.score == pytest.approx(whole.score) and last.score == pytest.approx(whole.score)
    assert odd.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)
    assert last.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)
    assert whole.metrics[task.metric] == whole.score


def test_evaluation_draws_no_random_numbers_and_changes_no_weight(world, config):
    task = world.task("refer", config)
    model = world.task_model(task).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (task.evaluate(model, task.loader("val", 16, False), CPU) for _ in range(2))
    assert first.metrics == second.metrics and first.results == second.results
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_vqa_results_are_in_the_official_format(world, config):
    task = world.task("vqa", config)
    results = task.test(world.task_model(task), "val", 16, CPU).results
    annotations = load_vqa(task.spec.path(task.spec.dataroot), "val")
    assert sorted(entry["question_id"] for entry in results) == [int(e.question_id) for e in annotations.entries]
    assert all(set(entry) == {"question_id", "answer"} for entry in results)
    assert {entry["answer"] for entry in results} <= set(annotations.label2ans)


def test_the_vqa_score_is_the_mean_soft_label_of_the_answers_given(world, config):
    task = world.task("vqa", config)
    evaluation = task.test(world.task_model(task), "val", 16, CPU)
    annotations = load_vqa(task.spec.path(task.spec.dataroot), "val")
    given = {entry["question_id"]: annotations.label2ans.index(entry["answer"]) for entry in evaluation.results}
    soft = [dict(zip(e.labels, e.scores, strict=True)).get(given[int(e.question_id)], 0.0) for e in annotations.entries]
    assert evaluation.score == pytest.approx(100 * sum(soft) / len(soft), rel=1e-5)


def test_a_split_without_answers_gives_results_and_no_score(world, config, tmp_path):
    blind = world.copy(tmp_path / "world")
    (blind.path / "datasets/vqa/annotations/cache/test_target.pkl").unlink()
    features = "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/test_feat.lmdb"
    task = blind.task("vqa", config, features=features)
    evaluation = task.test(world.task_model(task), "test", 16, CPU)
    assert math.isnan(evaluation.score) and len(evaluation.results) == len(task.dataset("test", False))


def test_refer_results_name_each_expression_and_the_chosen_box(world, config):
    task = world.task("refer", config)
    evaluation = task.test(world.task_model(task), "test", 16, CPU)
    entries = load_refer(task.spec.path(task.spec.dataroot), "refcoco+", "test")
    assert sorted(int(entry["id"]) for entry in evaluation.results) == sorted(int(e.sent_id) for e in entries)
    store, by_id = task.store("test"), {entry.sent_id: entry for entry in entries}
    for result in evaluation.results:
        assert set(result) == {"id", "target", "IOU"}
        entry = by_id[result["id"]]
        box = store[entry.image_id].boxes[result["target"]]
        assert result["IOU"] == pytest.approx(iou(box.tolist(), entry.box), abs=1e-4)
    hits = [result["IOU"] > 0.5 for result in evaluation.results]
    assert evaluation.score == pytest.approx(100 * sum(hits) / len(hits))


def iou(left, right):
    """Of two boxes with both ends included."""
    sides = [min(left[i + 2], right[i + 2]) - max(left[i], right[i]) + 1 for i in (0, 1)]
    inside = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (left, right)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("place", ["first", "last", None])
def test_boxes_are_counted_without_the_global_region_wherever_it_stands(world, place):
    task = world.task("refer", world.config("ctrl_uniter", add_global_imgfeat=place))
    dataset = task.dataset("val", training=False)
    batch = dataset.collate([dataset[0], dataset[len(dataset) - 1]], task.layout)
    for box in range(len(dataset[0]["target"])):
        scores = torch.zeros(*batch.target.shape, 1)
        scores[:, task.layout.boxes_from + box] = 1
        if place is not None:
            scores[:, 0 if place == "first" else -1] = 9  # the global region is no answer
        assert task.results(scores, batch)[0] == {
            "id": dataset[0]["id"], "target": box, "IOU": pytest.approx(float(dataset[0]["target"][box]))
        }  # fmt: skip


def test_retrieval_results_are_the_four_scores_of_each_caption(world, config):
    task = world.task("retrieval", config)
    evaluation = task.evaluate(world.task_model(task), task.loader("val", 7, False), CPU)
    captions = load_retrieval(task.spec.path(task.spec.val_annotations_jsonpath)).captions
    assert sorted(entry["caption"] for entry in evaluation.results) == list(range(len(captions)))
    wins = [entry["answer"][0] > max(entry["answer"][1:]) for entry in evaluation.results]
    assert evaluation.score == pytest.approx(100 * sum(wins) / len(wins))


@pytest.fixture
def few(world, tmp_path):
    """Annotations of four images of the test split."""
    path = tmp_path / "few.jsonl"
    lines = (world.path / "datasets/flickr30k/annotations/test_ann.jsonl").read_text().splitlines()
    path.write_text("\n".join(lines[:4]))
    return str(path)


@pytest.mark.parametrize(
    ("model", "batch_size"),
    [("ctrl_uniter", 7), ("ctrl_lxmert", 7), ("switchbert", 7), ("ctrl_uniter", 1), ("ctrl_uniter", 1000)],
)
def test_the_score_matrix_is_that_of_every_pair_by_itself(world, few, model, batch_size, monkeypatch):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 3)  # the second part has a single image
    task = world.task("retrieval", world.config(model), val_annotations=few)
    network = world.task_model(task)
    matrix, one_by_one = pairs(task, network, lambda inputs: network("TASK8", **inputs).scores[0, 0], batch_size)
    np.testing.assert_allclose(matrix, one_by_one, rtol=1e-4, atol=1e-5)
    assert matrix.shape[1] == 4 < matrix.shape[0] and matrix.std() > 1e-3 and matrix.dtype == np.float32
    caption_image = task.pairs("test").caption_image
    assert retrieval_metrics(matrix, caption_image) == retrieval_metrics(one_by_one, caption_image)


def test_one_caption_and_one_image_make_a_matrix(world, config, tmp_path, few):
    line = json.loads(Path(few).read_text().splitlines()[0])
    (tmp_path / "one.jsonl").write_text(json.dumps(line | {"sentences": line["sentences"][:1]}))
    task = world.task("retrieval", config, val_annotations=str(tmp_path / "one.jsonl"))
    network = world.task_model(task)
    matrix, one_by_one = pairs(task, network, lambda inputs: network("TASK8", **inputs).scores[0, 0])
    assert matrix.shape == (1, 1) and matrix == pytest.approx(one_by_one, rel=1e-4)


def test_zero_shot_scores_are_the_matching_heads_probabilities(world, config, few):
    task = world.task("retrieval", config, val_annotations=few)
    torch.manual_seed(0)
    network = BertForVLPreTraining(config).eval()

    def aligned(inputs):
        return network(**inputs).seq_relationship_score[0].softmax(-1)[0]

    matrix, one_by_one = pairs(task, network, aligned)
    np.testing.assert_allclose(matrix, one_by_one, rtol=1e-4, atol=1e-6)
    assert 0 < matrix.min() < matrix.max() < 1


def pairs(task, network, score, batch_size=7):
    """The score matrix, and the same matrix made pair by pair without padding."""
    pool = task.pairs("test")
    matrix = task.scorer(network, pool, batch_size, CPU).whole()
    single = np.empty_like(matrix)
    with torch.inference_mode():
        for caption, image in np.ndindex(matrix.shape):
            inputs = pool.image_inputs([image], task.layout) | pool.text_inputs([caption], task.layout)
            single[caption, image] = score(inputs)
    return matrix, single


def test_the_retrieval_test_is_over_all_pairs(world, config):
    task = world.task("retrieval", config)
    network = world.task_model(task)
    evaluation = task.test(network, "test", 16, CPU)
    pool = task.pairs("test")
    scores = task.scorer(network, pool, 16, CPU).whole()
    assert evaluation.metrics == retrieval_metrics(scores, pool.caption_image)
    assert evaluation.score == evaluation.metrics["ir_r1"]
    images = len(pool.image_ids)
    for row, best in zip(scores, evaluation.results, strict=True):
        assert len(best) == min(20, images) and (np.diff(row[best]) <= 0).all()


def test_a_split_without_annotations_is_named(world, config, tmp_path):
    bare = world.copy(tmp_path / "world", train_annotations_jsonpath="", val_annotations_jsonpath="")
    task = bare.task("retrieval", config)
    with pytest.raises(UserError, match=r"TASK8 \(RetrievalFlickr30k\): the task file names no annotations for 'test'"):
        task.dataset("test", training=False)


def test_zero_shot_needs_a_matching_head(world):
    config = world.config("ctrl_uniter", fusion_method="none")
    task = world.task("retrieval", config)
    with pytest.raises(UserError, match="matching head"):
        task.test(BertForVLPreTraining(config), "test", 16, CPU)
