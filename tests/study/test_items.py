"""Items give the score of every task's metric, know their groups, and are the same in all runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from synthetic_world import json_of
from volta_switch import UserError
from volta_switch.data.files import safe_pickle
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.study.items import Evaluated, ItemReader, NoItems
from volta_switch.tasks import DataOptions, TaskSpec, build_task, load_task, task_class, task_of
from volta_switch.tasks.metrics import consistency
from volta_switch.tasks.task_file import KINDS
from volta_switch.tasks.vqa import load_vqa
from volta_switch.train.evaluation import EvaluationRun

CPU = torch.device("cpu")
FLICKR = "datasets/flickr30k"
FEATURES = f"{FLICKR}/resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_feat.lmdb"
SPLITS = {"VQA": "val", "GQA": "val", "VisualEntailment": "dev", "refcoco+": "test", "NLVR2": "dev"}
SPLITS |= {"RetrievalFlickr30k": "test"}
RETRIEVAL = "RetrievalFlickr30k"
METRICS = [(name, metric) for name in SPLITS for metric in ("accuracy",) if name not in ("VQA", RETRIEVAL)]
METRICS += [("VQA", "vqa_score"), ("NLVR2", "consistency"), (RETRIEVAL, "ir_r1"), (RETRIEVAL, "tr_r1")]


@pytest.fixture(scope="module")
def images(world):
    lines = (world.path / FLICKR / "annotations/test_ann.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.fixture(scope="module")
def other_tasks(world, images, tmp_path_factory):
    """GQA and SNLI-VE about the world's photographs, two texts for each."""
    folder = tmp_path_factory.mktemp("others")
    features, answers = str(world.path / FEATURES), ["yes", "no", "left", "right"]
    safe_pickle.dump(folder / "trainval_ans2label.pkl", {answer: label for label, answer in enumerate(answers)})
    safe_pickle.dump(folder / "trainval_label2ans.pkl", answers)
    targets, lines = [], []
    for n in range(2 * len(images)):
        image, labels = images[n // 2], [n % 4] if n else []
        text = {"question_id": f"00{n}", "image_id": image, "question": "is there a ball ?"}
        targets.append({**text, "labels": labels, "scores": [1.0] * len(labels)})
        gold = ("-", "entailment", "neutral", "contradiction")[n % 4]
        lines.append({"Flikr30kID": f"{image}.jpg", "sentence2": "a ball", "gold_label": gold, "pairID": f"p{n}"})
    safe_pickle.dump(folder / "val_target.pkl", targets)
    (folder / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = (str(folder), features, 12, "train")
    return {
        "GQA": TaskSpec("TASK15", folder, "GQA", "VL-classifier-GQA", *shared, "val", num_labels=4),
        "VisualEntailment": TaskSpec("TASK13", folder, "VisualEntailment", "VL-tri-classifier", *shared, "dev"),
    }


@pytest.fixture(scope="module")
def spec_of(world, other_tasks):
    return lambda name: other_tasks.get(name) or load_task(world.tasks_file, name)


@pytest.fixture(scope="module")
def tested(world, spec_of, tmp_path_factory):
    """A random model's test as the entry points write it, and its metrics; read-only."""
    made = {}

    def test(name, seed):
        if (name, seed) not in made:
            config, spec, split = world.config("ctrl_uniter"), spec_of(name), SPLITS[name]
            spec = replace(spec, num_labels=spec.num_labels or 3)
            task = build_task(spec, config, Tokenizer(config.bert_model), DataOptions())
            model = world.task_model(task, seed)
            folder = tmp_path_factory.mktemp("run")
            run = EvaluationRun(task, split, model, CPU, torch.float32, "w", folder)
            run.write(task.test(model, split, 16, CPU))
            made[name, seed] = Evaluated(spec, split, folder), json_of(folder / f"{split}_metrics.json")
        return made[name, seed]

    return test


def test_there_is_a_grade_for_every_task_type_and_a_test_for_each_of_its_metrics(spec_of):
    headlines = {(name, metric) for name in SPLITS for metric in task_class(spec_of(name)).headline}
    assert headlines == set(METRICS)
    assert {task_class(spec_of(name)) for name in SPLITS} == {task_of(kind.data_set) for kind in KINDS.values()}


@pytest.mark.parametrize(("name", "metric"), METRICS)
def test_the_mean_of_the_items_is_the_score_and_so_is_that_of_the_groups(tested, name, metric):
    runs = [(test, metrics[metric]) for test, metrics in (tested(name, seed) for seed in range(3))]
    scores = [score for _, score in runs]
    reader = ItemReader()
    items = [reader.items(test, metric, score) for test, score in runs]
    assert [found.points.mean() for found in items] == pytest.approx(scores, abs=1e-3)  # float32 labels of VQA
    assert all(found.points.dtype == np.float32 and sorted(found.ids) == list(found.ids) for found in items)
    assert items[0].ids is items[2].ids and items[0].groups is items[2].groups  # kept once
    grouped = reader.column({"a": runs[:2], "b": runs[2:]}, metric)
    assert grouped["a"].points.shape == (2, len(set(items[0].groups))) and grouped["b"].points.shape[0] == 1
    assert set(grouped["b"].names) == set(items[0].groups)
    assert [*grouped["a"].points.mean(1), *grouped["b"].points.mean(1)] == pytest.approx(scores, abs=1e-3)
    assert metric == "consistency" or any(0 < score < 100 for score in scores)  # else the means show nothing


@pytest.mark.parametrize(("name", "metric"), METRICS)
def test_what_is_about_one_image_is_one_group(tested, world, images, name, metric):
    test, metrics = tested(name, 0)
    found = ItemReader().items(test, metric, metrics[metric])
    groups = dict(zip(found.ids.tolist(), found.groups.tolist(), strict=True))
    if name == "VQA":
        entries = load_vqa(test.spec.path(test.spec.dataroot), "val").entries
        assert groups == {str(entry.question_id): str(entry.image_id) for entry in entries}
    elif name == "GQA":
        assert groups == {f"00{n}": images[n // 2] for n in range(2 * len(images))}
    elif name == "VisualEntailment":  # every fourth pair has no gold label
        assert groups == {f"p{n}": images[n // 2] for n in range(2 * len(images)) if n % 4}
    elif name == "refcoco+":
        refs = safe_pickle.load(test.spec.path(test.spec.dataroot) / "refcoco+" / "refs(unc).p")
        refs = [ref for ref in refs if "test" in ref["split"]]
        assert groups == {str(sentence): str(ref["image_id"]) for ref in refs for sentence in ref["sent_ids"]}
    elif metric == "accuracy":  # dev-0-1-1: set 0, pair 1, sentence 1
        assert groups == {name: "-".join(name.split("-")[:2]) for name in groups} and len(set(groups.values())) > 1
    elif metric == "consistency":
        assert set(groups) == {result["sentence"] for result in json_of(test.results)}
    elif metric == "ir_r1":
        lines = (world.path / FLICKR / "annotations/test_ann.jsonl").read_text().splitlines()
        captions = [len(json.loads(line)["sentences"]) for line in lines]
        assert sorted(groups.values()) == sorted(np.repeat(images, captions)) and max(captions) > 1
    else:
        assert groups == {image: image for image in images}


def test_marvls_statements_are_grouped_by_their_pair(tested, tmp_path):
    test, _ = tested("NLVR2", 0)
    lines = [
        {"id": f"zh-{n}-{n}", "left_img": f"x/l{n // 2}.jpg", "right_img": "r.jpg", "caption": f"c{n}", "label": True}
        for n in range(4)
    ]
    (tmp_path / "marvl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = [{"identifier": f"zh-{n}-{n}", "sentence": f"c{n}", "prediction": n % 2, "label": 1} for n in range(4)]
    (tmp_path / "dev_result.json").write_text(json.dumps(results))
    spec = replace(test.spec, val_annotations_jsonpath=str(tmp_path / "marvl.jsonl"))
    found = ItemReader().items(Evaluated(spec, "dev", tmp_path), "accuracy", 50.0)
    assert found.groups.tolist() == ["l0 r", "l0 r", "l1 r", "l1 r"] and found.points.tolist() == [0, 100, 0, 100]


def test_consistency_is_that_of_sentences_whose_statements_are_all_right(tested, tmp_path):
    def judged(results):  # every third statement wrongly
        return [{**each, "prediction": each["label"] ^ (n % 3 == 0)} for n, each in enumerate(results)]

    test = changed(tested("NLVR2", 0)[0], tmp_path / "run", judged)
    results = json_of(test.results)
    score = consistency([each["sentence"] for each in results], np.arange(len(results)) % 3 > 0)
    found = ItemReader().items(test, "consistency", score)
    assert 0 < score < 100 and len(found.ids) < len(results)
    assert len(set(found.groups)) > 1 and set(found.groups) <= {each["identifier"][:-4] for each in results}


def changed(test, folder, change=None):
    """A copy of a test's files, its results changed."""
    folder.mkdir()
    results = json_of(test.results)
    (folder / test.results.name).write_text(json.dumps(results if change is None else change(results)))
    return replace(test, folder=folder)


def test_runs_on_other_items_are_refused_in_one_line_that_names_both_files(tested, tmp_path):
    test, metrics = tested("refcoco+", 0)
    hits = [result["IOU"] > 0.5 for result in json_of(test.results)]
    fewer = changed(test, tmp_path / "fewer", lambda results: results[1:])
    scores = metrics["accuracy"], 100 * float(np.mean(hits[1:]))
    for arms in (
        {"a": [(test, scores[0])], "b": [(fewer, scores[1])]},
        {"a": [(test, scores[0]), (fewer, scores[1])]},
    ):
        with pytest.raises(UserError) as caught:
            ItemReader().column(arms, "accuracy")
        message = str(caught.value)
        assert message.startswith(f"{test.results} and {fewer.results}: not the same test items ({len(hits)} and ")
        assert f"only one has {json_of(test.results)[0]['id']}" in message and "\n" not in message
    order = changed(test, tmp_path / "order", lambda results: results[::-1])
    grouped = ItemReader().column({"a": [(test, scores[0])], "b": [(order, scores[0])]}, "accuracy")
    assert np.array_equal(grouped["a"].points, grouped["b"].points)


def test_tests_on_different_data_may_have_different_items(tested, world, tmp_path):
    test, metrics = tested("refcoco+", 0)
    other = world.copy(tmp_path / "world")
    elsewhere = Evaluated(load_task(other.tasks_file, "refcoco+"), "test", test.folder)
    score = metrics["accuracy"]
    assert elsewhere.data != test.data == Evaluated(test.spec, "test", tmp_path).data
    found = ItemReader().column({"a": [(test, score)], "b": [(elsewhere, score)]}, "accuracy")
    assert list(found) == ["a", "b"]


def test_an_older_test_without_ranks_gives_image_retrieval_alone(tested, tmp_path):
    test, metrics = tested(RETRIEVAL, 0)
    older, reader = changed(test, tmp_path / "older"), ItemReader()
    found, expected = (reader.items(each, "ir_r1", metrics["ir_r1"]) for each in (older, test))
    assert np.array_equal(found.points, expected.points) and found.source == older.results
    with pytest.raises(NoItems, match=r"older/test_ranks\.json: missing \(the test was made before"):
        reader.items(older, "tr_r1", metrics["tr_r1"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda results: results + results[:1], "test_result.json: an item stands twice"),
        (lambda results: [], "test_result.json: no results"),
        (lambda results: [{"id": "no-such-id", "IOU": 1.0}], "not the results of refcoco+'s split test (KeyError"),
        (lambda results: {"results": 1}, "not the results of refcoco+'s split test (TypeError"),
        (lambda results: [{**result, "IOU": 0.6} for result in results], "gives 100.000, not the score "),
    ],
)
def test_results_that_do_not_tell_the_items_give_none_and_one_line_why(tested, tmp_path, change, told):
    test, metrics = tested("refcoco+", 0)
    with pytest.raises(NoItems) as caught:
        ItemReader().items(changed(test, tmp_path / "run", change), "accuracy", metrics["accuracy"])
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_data_that_are_not_there_or_hold_no_truth_give_none(tested, other_tasks, tmp_path):
    test, metrics = tested("GQA", 0)
    gone = replace(test, spec=replace(test.spec, dataroot=str(tmp_path / "gone")))
    with pytest.raises(NoItems, match=r"gone/trainval_ans2label\.pkl"):
        ItemReader().items(gone, "accuracy", metrics["accuracy"])
    for name in ("trainval_ans2label.pkl", "trainval_label2ans.pkl"):
        (tmp_path / name).write_bytes((other_tasks["GQA"].folder / name).read_bytes())
    question = {"0": {"imageId": "1", "question": "is there a ball ?"}}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(question))
    blind = replace(test, spec=replace(test.spec, dataroot=str(tmp_path)), split="testdev")
    with pytest.raises(NoItems, match="question 0 has no answer to compare with"):
        ItemReader().items(blind, "accuracy", 50.0)


def test_items_of_one_image_alone_give_none(tested, tmp_path):
    test, _ = tested("GQA", 0)
    one = changed(test, tmp_path / "one", lambda results: [r for r in results if r["questionId"] in ("000", "001")])
    score = (
        100 * float(np.mean([r["prediction"] == "no" for r in json_of(one.results) if r["questionId"] == "001"])) / 2
    )
    with pytest.raises(NoItems, match=r"all items of .*val_result\.json belong together"):
        ItemReader().column({"a": [(one, score)]}, "accuracy")


def test_each_file_is_read_once(tested, monkeypatch):
    test, metrics = tested("VQA", 0)
    reader, read = ItemReader(), []
    monkeypatch.setattr("volta_switch.tasks.graded_items.read_json", lambda path: read.append(path) or json_of(path))
    for _ in range(2):
        reader.column({"a": [(test, metrics["vqa_score"])]}, "vqa_score")
    assert read == [test.results]


def coarse(scores):
    """So that many are tied, as in half precision."""
    return ((scores - scores.mean()) / (4 * scores.std())).round()


@pytest.mark.parametrize(("name", "metric"), METRICS)
def test_ties_are_told(world, tested, tmp_path, monkeypatch, name, metric):
    test, _ = tested(name, 0)
    config = world.config("ctrl_uniter")
    task = build_task(test.spec, config, Tokenizer(config.bert_model), DataOptions())
    model = world.task_model(task)
    if name == RETRIEVAL:
        pool = task.pairs(test.split)
        result = task.ranked(coarse(task.scorer(model, pool, 16, CPU).whole()), pool.caption_image)
    else:
        exact = task.scores
        monkeypatch.setattr(task, "scores", lambda *given: coarse(exact(*given)))
        result = task.test(model, test.split, 16, CPU)
    EvaluationRun(task, test.split, model, CPU, torch.float32, "w", tmp_path).write(result)
    score = json_of(tmp_path / f"{test.split}_metrics.json")[metric]
    ItemReader().items(replace(test, folder=tmp_path), metric, score)  # refuses items that do not give the score
