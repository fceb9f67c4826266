"""GQA and SNLI-VE, on a few hand-made samples about the small world's photographs."""

import json
import math
from dataclasses import replace

import pytest
import torch

from volta_switch.data.files import safe_pickle
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError
from volta_switch.tasks import DataOptions, TaskSpec, build_task

CPU = torch.device("cpu")
ANSWERS = ["yes", "no", "left", "right"]
FEATURES = "datasets/flickr30k/resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_feat.lmdb"


@pytest.fixture(scope="module")
def images(world):
    lines = (world.path / "datasets/flickr30k/annotations/test_ann.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.fixture
def make_task(world, tmp_path):
    def make(key, name, kind, **changes):
        config = world.config("ctrl_uniter")
        features = str(world.path / FEATURES)
        spec = TaskSpec(key, tmp_path, name, kind, str(tmp_path), features, 12, "train", "dev")
        return build_task(replace(spec, **changes), config, Tokenizer(config.bert_model), DataOptions())

    return make


@pytest.fixture
def gqa(make_task, images, tmp_path):
    safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {answer: label for label, answer in enumerate(ANSWERS)})
    safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", ANSWERS)
    targets = [
        {
            "question_id": f"00{n}",
            "image_id": image,
            "question": "is there a ball ?",
            "labels": [n % 4],
            "scores": [1.0],
        }
        for n, image in enumerate(images[:6])
    ]
    for name in ("train", "val"):
        safe_pickle.dump(tmp_path / f"{name}_target.pkl", targets)
    return make_task("TASK15", "GQA", "VL-classifier-GQA", num_labels=4, val_split="val")


def write_testdev(folder, images, answers):
    items = {
        f"0{n}": {"imageId": image, "question": "is there a ball ?", **({"answer": answer} if answer else {})}
        for n, (image, answer) in enumerate(zip(images, answers, strict=False))
    }
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(items))


def test_gqa_descends_vqas_loss(world, gqa):
    dataset = gqa.dataset("train", training=True)
    batch = dataset.collate([dataset[index] for index in range(6)], gqa.layout)
    scores = torch.randn(6, 4)
    probability, target = scores.double().sigmoid(), batch.target.double()
    each = -(target * probability.log() + (1 - target) * (1 - probability).log())
    assert gqa.loss(scores, batch).item() == pytest.approx(each.sum(1).mean().item(), rel=1e-5)


def test_gqa_results_are_in_the_official_format_and_exact_matches_count(world, gqa, images, tmp_path):
    write_testdev(tmp_path, images, ["yes", "no", "purple", "left", "right"])
    evaluation = gqa.test(world.task_model(gqa), "test", 2, CPU)
    given = {result["questionId"]: result["prediction"] for result in evaluation.results}
    assert sorted(given) == ["00", "01", "02", "03", "04"] and set(given.values()) <= set(ANSWERS)
    right = [given[f"0{n}"] == answer for n, answer in enumerate(["yes", "no", "purple", "left", "right"])]
    assert evaluation.score == pytest.approx(100 * sum(right) / 5)
    write_testdev(tmp_path, images, [prediction for _, prediction in sorted(given.items())])
    assert gqa.test(world.task_model(gqa), "test", 2, CPU).score == 100


def test_gqa_without_answers_gives_results_and_no_score(world, gqa, images, tmp_path):
    write_testdev(tmp_path, images, [None] * 3)
    evaluation = gqa.test(world.task_model(gqa), "testdev", 2, CPU)
    assert len(evaluation.results) == 3 and math.isnan(evaluation.score)


def test_gqas_validation_features_are_features_h5path2(gqa, make_task, tmp_path):
    missing = str(tmp_path / "gqa-valid.lmdb")
    changes = {"num_labels": 4, "val_split": "val", "features_h5path2": missing}
    task = make_task("TASK15", "GQA", "VL-classifier-GQA", **changes)
    task.dataset("train", training=True)
    with pytest.raises(UserError, match=r"gqa-valid\.lmdb"):
        task.dataset("val", training=False)


def write_pairs(path, images, relations):
    lines = [
        {"Flikr30kID": f"{image}.jpg", "sentence2": "a red ball", "gold_label": relation, "pairID": f"p{n}"}
        for n, (image, relation) in enumerate(zip(images, relations, strict=False))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def snli_ve(make_task, images, tmp_path):
    write_pairs(tmp_path / "snli_ve_dev.jsonl", images, ["entailment", "-", "neutral", "contradiction", "neutral"])
    return make_task("TASK13", "VisualEntailment", "VL-tri-classifier", num_labels=3)


def whole_split(task):
    dataset = task.dataset("dev", training=False)
    return dataset.collate([dataset[index] for index in range(len(dataset))], task.layout)


def test_snli_ve_descends_the_mean_cross_entropy_and_a_pair_without_gold_is_none_of_three(snli_ve):
    batch = whole_split(snli_ve)
    assert batch.target.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    scores = torch.randn(5, 3)
    probability, target = scores.double().sigmoid(), batch.target.double()
    each = -(target * probability.log() + (1 - target) * (1 - probability).log())
    assert snli_ve.loss(scores, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_a_pair_without_gold_does_not_count_and_a_tie_is_no_win(snli_ve):
    batch = whole_split(snli_ve)
    scores = torch.tensor([[0.0, 1, 2], [0, 1, 2], [0, 1, 1], [-1, -2, -2], [3, 2, 1]])
    assert snli_ve.hits(scores, batch).tolist() == [True, False, True, False]
    assert snli_ve.counted(batch).tolist() == [True, False, True, True, True]
    snli_ve.options = replace(snli_ve.options, volta_compat=True)
    scores[1, 0] = 9  # VOLTA counts the pair as wrong, whatever is predicted
    assert snli_ve.hits(scores, batch).tolist() == [True, False, False, True, False]
    assert snli_ve.counted(batch).all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_accuracy_is_over_the_pairs_with_gold_whatever_the_batches(world, snli_ve, size):
    evaluation = snli_ve.test(world.task_model(snli_ve), "dev", size, CPU)
    given = {result["id"]: result["prediction"] for result in evaluation.results}
    assert sorted(given) == ["p0", "p1", "p2", "p3", "p4"]
    gold = {"p0": "entailment", "p2": "neutral", "p3": "contradiction", "p4": "neutral"}
    assert evaluation.score == pytest.approx(25.0 * sum(given[name] == relation for name, relation in gold.items()))
    right = sorted(given[name] == relation for name, relation in gold.items())
    assert sorted(evaluation.measured["accuracy"]) == right


def test_snli_ve_takes_annotations_of_another_name(make_task, images, tmp_path):
    write_pairs(tmp_path / "xvnli.jsonl", images, ["neutral"] * 2)
    task = make_task(
        "TASK19", "XVNLI", "VL-tri-classifier", val_split="test", val_annotations_jsonpath=str(tmp_path / "xvnli.jsonl")
    )
    assert len(task.dataset("test", training=False)) == 2
