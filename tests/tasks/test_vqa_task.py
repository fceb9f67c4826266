"""VQA's test: VOLTA's score, and the official accuracy where people's answers are there."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from volta_switch import UserError
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, build_task, load_task
from volta_switch.tasks.metrics import answer_accuracy
from volta_switch.tasks.vqa_files import load_annotators

CPU = torch.device("cpu")


@pytest.fixture
def task(world, tmp_path):
    """VQA of the small world, its annotations a copy."""
    config = world.config("ctrl_uniter")
    spec = load_task(world.tasks_file, "VQA")
    shutil.copytree(spec.path(spec.dataroot), tmp_path / "annotations")
    spec = replace(spec, dataroot=str(tmp_path / "annotations"))
    return build_task(spec, config, Tokenizer(config.bert_model), DataOptions())


def test_the_official_accuracy_is_that_of_the_answers_submitted(world, task):
    path = task.spec.path(task.spec.dataroot) / "v2_mscoco_val2014_annotations.json"
    annotated = load_annotators(path)
    answers = {question.question_id: question.answers for question in annotated}
    model = world.task_model(task)
    with torch.no_grad():  # a model that is right at times
        label = task.annotations(task.spec, "val").label2ans.index(annotated[0].consensus)
        model.clfs_dict["TASK1"].logit_fc[3].bias[label] += 100
    evaluation = task.test(model, "val", 16, CPU)
    each = [answer_accuracy(result["answer"], answers[str(result["question_id"])]) for result in evaluation.results]
    assert evaluation.metrics["vqa_accuracy"] == pytest.approx(100 * sum(each) / len(each))
    assert 0 < evaluation.metrics["vqa_accuracy"] < 100 and evaluation.score == evaluation.metrics["vqa_score"]


def test_without_peoples_answers_there_is_volta_s_score_alone(world, task):
    (task.spec.path(task.spec.dataroot) / "v2_mscoco_val2014_annotations.json").unlink()
    assert set(task.test(world.task_model(task), "val", 16, CPU).metrics) == {"vqa_score", "loss"}


def test_trainval_is_judged_by_both_files(world, task):
    assert len(task.annotators("trainval")) == len(task.annotators("train")) + len(task.annotators("val"))
    (task.spec.path(task.spec.dataroot) / "v2_mscoco_val2014_annotations.json").unlink()
    assert task.annotators("trainval") is None and task.annotators("mteval") == task.annotators("train")


def test_questions_that_people_did_not_answer_are_named(world, task):
    path = task.spec.path(task.spec.dataroot) / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    lost = content["annotations"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"lack 1 questions of split 'val', first {lost['question_id']}"):
        task.test(world.task_model(task), "val", 16, CPU)
