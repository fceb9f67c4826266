"""``volta-switch predict`` gives what ``eval_task.py`` and ``eval_retrieval.py`` write for every test sample.

One architecture is of one stream and switched, one of two streams. The evaluation reads VOLTA's annotations through its
loaders, in batches of samples of like length; ``predict`` reads JSON lines in their order.
"""

import numpy as np
import pytest
import torch

from asked_tasks import RETRIEVAL, TASKS, features_of, model_folder, questions, read_lines, task_of, write_lines
from synthetic_world import ENTRY_POINTS, json_of
from volta_switch.cli import main

MODELS = ["switchbert", "ctrl_vilbert"]


def evaluated(world, task, key, folder, out, *more):
    """The folder of what the evaluation wrote."""
    entry = type(task).entry_point
    flags = ["--tasks_config_file", world.tasks_file, "--task", key, "--from_pretrained", folder, "--split", TASKS[key]]
    features = ["--val_features_lmdbpath", task.options.features] if task.options.features else []
    ENTRY_POINTS[entry](list(map(str, [*flags, *features, "--output_dir", out, "--batch_size", 16, *more])))
    (found,) = (path.parent for path in out.rglob("*_metrics.json"))
    return found


CASES = [*((key, model) for key in TASKS for model in MODELS), ("TASK12", "ctrl_visualbert")]  # with joined images


@pytest.mark.parametrize(("key", "model"), CASES)
def test_every_answer_of_a_test_split_is_the_evaluations(world, tmp_path, key, model):
    task, split = task_of(world, key, model), TASKS[key]
    folder = model_folder(task, tmp_path / "model")
    asked = questions(task, split)
    given, out = write_lines(tmp_path / "asked.jsonl", asked), tmp_path / "answers.jsonl"
    features = features_of(task, split)
    main(
        ["predict", str(folder), "--input", str(given), "--features", features, "--out", str(out), "--batch_size", "7"]
    )
    answers = read_lines(out)
    assert len(answers) == len(asked) > 4
    if key in RETRIEVAL:
        written = evaluated(world, task, key, folder, tmp_path / "runs", "--keep_scores")
        scores = np.load(written / f"{split}_scores.npy")  # (captions, images)
        ours = np.empty_like(scores)
        for column, answer in enumerate(answers):
            for each in answer["ranking"]:
                ours[each["place"], column] = each["score"]
            assert sum(each["probability"] for each in answer["ranking"]) == pytest.approx(1)
        assert np.abs(ours - scores).max() < 2e-5 < scores.std()
        best = np.argsort(-ours, axis=1, kind="stable")[:, :20]
        assert best.tolist() == json_of(written / f"{split}_result.json")
        return
    written = evaluated(world, task, key, folder, tmp_path / "runs")
    results = json_of(written / f"{split}_result.json")
    by_name = {answer["id"]: answer for answer in answers}
    assert len(results) == len(by_name)
    for result in results:
        name = result.get("id", result.get("question_id", result.get("questionId", result.get("identifier"))))
        found = by_name[str(name)]
        if "target" in result:
            assert result["target"] == found["region"]
        elif "label" in result:
            assert found["answer"] == ("true" if result["prediction"] == 1 else "false") and result["prediction"] >= 0
        else:
            assert found["answer"] == result.get("answer", result.get("prediction"))
    scores = scores_of(task, split, folder)
    for name, row in scores.items():
        assert by_name[name]["score"] == pytest.approx(row, abs=2e-5)
    assert np.std(list(scores.values())) > 1e-3
    if task.spec.type != "V-logit":
        assert len({answer["answer"] for answer in answers}) > 1


def scores_of(task, split, folder):
    """The best score of each sample as the evaluation's loader and the task's own scores have it."""
    from volta_switch import BertForVLTasks

    model, found = BertForVLTasks.from_pretrained(folder), {}
    with torch.inference_mode():
        for batch in task.loader(split, 16, training=False):
            batch = batch.to("cpu")
            scores = task.scores(model, batch).float()
            if batch.candidates is not None:
                scores = scores[..., 0].masked_fill(~batch.candidates, -torch.inf)
            found |= dict(zip(batch.ids, scores.max(1).values.tolist(), strict=True))
    return found
