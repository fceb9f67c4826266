"""Every fix of a wrong number in fine-tuning and evaluation: VOLTA's number without it, and the right one with it.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
Tolerances: 1e-6 of logged means and rates; all else is exact.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from plugin.volta_runs import NAMES, TASKS, VoltaWorld, checkpoint_of, config_of, volta_checkout
from volta_switch.data.files import safe_pickle
from volta_switch.plugin.script import Script

volta_checkout()
easydict = pytest.importorskip("easydict")

TRAIN, EVALUATE, RETRIEVAL = "train_task.py", "eval_task.py", "eval_retrieval.py"
VQA = Path("datasets/vqa/annotations")
REFER = Path("datasets/refcoco+_unc/annotations")


def flags_of(world: VoltaWorld, task: str, *more: Any, script: str = TRAIN, out: Path = Path("out")) -> list[Any]:
    return [*world.flags(script, "ctrl_uniter", out, task), *more]


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory) -> list[Path]:
    """Random weights of two runs, for every task."""
    folder = tmp_path_factory.mktemp("weights")
    with world.prepared(EVALUATE, *flags_of(world, "refer", script=EVALUATE)) as script:
        tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
        for seed, name in enumerate(("one", "other")):
            torch.manual_seed(seed)
            model = script.volta("encoders").BertForVLTasks(config_of(script), tasks, ["TASK1", "TASK10"])
            (folder / name).mkdir()
            torch.save(model.state_dict(), folder / name / "pytorch_model_best.bin")
    return [folder / name / "pytorch_model_best.bin" for name in ("one", "other")]


def train_set(script: Script, task: str) -> Any:
    """VOLTA's training data set of a task, made as its script makes it."""
    args = script.module.parse_args()
    tasks = easydict.EasyDict(yaml.safe_load(Path(args.tasks_config_file).read_text()))
    return script.volta("task_utils").LoadDataset(args, config_of(script), tasks, TASKS[task], "train")[2]


# --- Data sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fix", [(), ("negatives",)])
def test_negative_captions_are_other_images_own(world, fix):
    with world.prepared(TRAIN, *flags_of(world, "retrieval"), fix=fix) as script:
        dataset = train_set(script, "retrieval")
        for index, entry in enumerate(dataset._entries):
            entry["token"] = torch.full_like(entry["token"], index)  # tells which caption it is
        drawn = [dataset[index % len(dataset)][3][:, 0].tolist() for index in range(200)]
    image_of = [entry["image_id"] for entry in dataset._entries]
    first = [index for index, image in enumerate(image_of) if image == image_of[0]]
    assert len(first) == 5 and len(image_of) == 60
    negatives = [pair for _, random_one, _, hard_one in drawn for pair in ((random_one,), (hard_one,))]
    chosen = {index for (index,) in negatives}
    assert all(true == third == number % 60 for number, (true, _, third, _) in enumerate(drawn))
    if not fix:
        assert chosen == set(first)  # 400 of 400
        return
    assert len(chosen) > 40 and {image_of[index] for index in chosen} == set(image_of)
    for true, random_one, _, hard_one in drawn:
        assert image_of[random_one] != image_of[true] != image_of[hard_one]


def annotations(folder: Path, world: VoltaWorld) -> list[Any]:
    """Flags of a copy of VQA's annotations."""
    shutil.copytree(world.path / VQA, folder / "vqa", ignore=shutil.ignore_patterns("VQA_*.pkl"))
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    tasks["TASK1"]["dataroot"] = str(folder / "vqa")
    (folder / "tasks.yml").write_text(yaml.safe_dump(tasks))
    return ["--tasks_config_file", folder / "tasks.yml"]


def rename_bert(folder: Path, world: VoltaWorld) -> list[Any]:
    """Flags of a tokenizer of the same name with another vocabulary."""
    vocabulary = shutil.copytree(world.path / "bert-world", folder / "bert-world") / "vocab.txt"
    special, words = (vocabulary.read_text().splitlines()[part] for part in (slice(None, 5), slice(5, None)))
    assert all(word.startswith("[") for word in special)
    vocabulary.write_text("\n".join([*special, *reversed(words)]) + "\n")
    return ["--config_file", world.config("ctrl_uniter", bert_model=str(folder / "bert-world"))]


@pytest.mark.parametrize("fix", [(), ("token-caches",)])
def test_changed_texts_answers_and_vocabularies_are_seen(world, fix, tmp_path):
    flags = annotations(tmp_path, world)

    def read(*more: Any) -> tuple[list[int], list[float]]:
        """The first question's tokens and its answers' scores."""
        with world.prepared(TRAIN, *flags_of(world, "vqa", *flags, *more), fix=fix) as script:
            entry = train_set(script, "vqa").entries[0]
        return entry["q_token"].tolist(), entry["answer"]["scores"].tolist()

    before = read()
    questions = tmp_path / "vqa" / "v2_OpenEnded_mscoco_train2014_questions.json"
    changed = json.loads(questions.read_text())
    changed["questions"][0]["question"] = changed["questions"][0]["question"].rpartition(" ")[0]
    questions.write_text(json.dumps(changed))
    other_text = read()
    targets = tmp_path / "vqa" / "cache" / "train_target.pkl"
    answers = safe_pickle.load(targets)
    answers[0]["scores"] = [0.5 * score for score in answers[0]["scores"]]
    safe_pickle.dump(targets, answers)
    other_answer = read()
    other_words = read(*rename_bert(tmp_path, world))
    if not fix:
        assert before == other_text == other_answer == other_words
        return
    assert other_text[0] != before[0] and other_text[1] == before[1]
    assert other_answer == (other_text[0], [0.5 * score for score in before[1]]) and any(before[1])
    assert other_words[0] != other_answer[0] and other_words[1] == other_answer[1]
    kept = sorted(file.name for file in targets.parent.glob("VQA_train_*.pkl"))
    assert len(kept) == 4 and read() == other_answer  # what has not changed is read from its cache
    assert sorted(file.name for file in targets.parent.glob("VQA_train_*.pkl")) == kept


@pytest.mark.parametrize("fix", [(), ("sampler-epochs",)])
def test_every_epoch_of_several_processes_has_an_order_of_its_own(world, fix):
    with world.prepared(TRAIN, *flags_of(world, "vqa"), fix=fix) as script:
        kind = script.volta("task_utils").DistributedSampler
        samplers = [kind(range(40), num_replicas=2, rank=rank) for rank in range(2)]
        epochs = [[list(sampler) for sampler in samplers] for _ in range(3)]
    for parts in epochs:
        assert sorted(parts[0] + parts[1]) == list(range(40))
    orders = {tuple(parts[0]) for parts in epochs}
    assert len(orders) == (3 if fix else 1)


# --- The loop of training -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(world, weights, tmp_path_factory) -> dict[bool, Path]:
    """Two epochs of training through the command line, without fixes and with two."""
    folder = tmp_path_factory.mktemp("runs")
    for fixed in (False, True):
        options = ("--fix", "schedule", "--fix", "evaluation-steps") if fixed else ()
        more = ("--from_pretrained", weights[0], "--num_epoch", 2, "--eval_steps", 3)
        world.succeed(TRAIN, *flags_of(world, "refer", *more, out=folder / str(fixed)), options=options)
    return {fixed: folder / str(fixed) / "refcoco+_ctrl_uniter" for fixed in (False, True)}


def test_the_run_says_which_numbers_are_mended_and_none_is_by_default(runs):
    for fixed, names in ((False, "none"), (True, "schedule, evaluation-steps")):
        said = [line for line in (runs[fixed] / "out.txt").read_text().splitlines() if "fixes of numbers" in line]
        assert said == [f"volta_switch fixes of numbers: {names}"]


def test_the_rate_falls_to_nothing_over_the_epochs_that_are_trained(runs, world, tmp_path):
    without, with_fix = (checkpoint_of(runs[fixed]) for fixed in (False, True))
    steps = without["global_step"]
    assert steps == with_fix["global_step"] > 6 and steps % 2 == 0
    assert without["scheduler_state_dict"]["t_total"] == steps // 2 * 20
    assert with_fix["scheduler_state_dict"]["t_total"] == steps
    for group in without["optimizer_state_dict"]["param_groups"]:
        assert group["lr"] == pytest.approx(group["initial_lr"], rel=1e-6)  # a tenth of 20 epochs is warming up
    assert {group["lr"] for group in with_fix["optimizer_state_dict"]["param_groups"]} == {0.0}
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    tasks["TASK10"]["num_epoch"] = 7
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump(tasks))
    flags = flags_of(world, "refer", "--tasks_config_file", tmp_path / "tasks.yml")
    with world.prepared(TRAIN, *flags, fix=("schedule",)) as script:
        assert script.module.parse_args().optim_train_epochs == 7  # where no flag says how many


def test_evaluations_are_as_many_steps_apart_as_asked_for(runs):
    steps = checkpoint_of(runs[False])["global_step"]
    for fixed, apart in ((False, 2), (True, 3)):
        log = (runs[fixed] / "out.txt").read_text()
        expected = len(range(apart, steps, apart)) + 2  # and after each of two epochs
        assert len(re.findall(r"^Validation \[refcocoplus\]", log, re.MULTILINE)) == expected


@pytest.mark.parametrize("fix", [(), ("evaluation-steps",)])
def test_what_is_saved_within_an_epoch_resumes_in_it(world, fix, tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with world.prepared(TRAIN, *flags_of(world, "refer"), fix=fix) as script:
        assert script.module.parse_args().eval_steps == 2**63 - 1  # never, unless it is asked for
        logger = script.volta("train_utils").tbLogger(
            str(tmp_path / "logs"), str(tmp_path), [NAMES["refer"]], ["TASK10"], {"TASK10": 4}, 1
        )
        for epoch, saved_as, steps, resumed_in in ((1, 6, 7, 1), (1, 1, 8, 2), (0, -1, 0, 0)):
            logger.epochId = epoch
            script.module.save(
                str(tmp_path), script.module.logger, saved_as, model, optimizer, scheduler, steps, logger, True, 0.5
            )
            checkpoint = str(tmp_path / "pytorch_ckpt_latest.tar")
            _, found, start, _, score = script.module.resume(checkpoint, model, optimizer, scheduler, logger)
            assert (found, score) == (steps, 0.5)
            assert start == (resumed_in if fix else saved_as + 1)


@pytest.mark.parametrize("fix", [(), ("accumulated-loss",)])
@pytest.mark.parametrize("parts", [1, 4])
def test_logged_means_are_of_whole_steps(world, fix, parts, tmp_path):
    """Three steps with losses 2, 4 and 6, each of so many parts."""
    with world.prepared(TRAIN, *flags_of(world, "refer"), fix=fix) as script:
        logger = script.volta("train_utils").tbLogger(
            str(tmp_path / "logs"), str(tmp_path), [NAMES["refer"]], ["TASK10"], {"TASK10": 100}, parts
        )
        for step, loss in enumerate((2.0, 4.0, 6.0)):
            # as train_task.py and train_concap.py call it: only the former gives a part's share of the loss
            logger.step_train(0, step, loss / parts, 0.5, 0.25, "TASK10", "train")
        logger.showLossTrain()
        for step, loss in enumerate((2.0, 4.0, 6.0)):
            logger.step_train_CC(0, step, loss, 10 * loss, 100 * loss, 0.25, "TASK10", "train")
        logger.showLossTrainCC()
        logger.txt_close()
    numbers = re.findall(r"(loss|score|lr|masked_t|masked_v|NSP|iter) ([\d.e-]+)", (tmp_path / "out.txt").read_text())
    task = {"loss": 4.0 / (1 if fix else parts**2), "score": 0.5, "lr": 0.25}
    captions = {"masked_t": 4.0, "masked_v": 40.0, "NSP": 400.0, "lr": 0.25}
    expected = [("iter", 3 * parts), ("loss", task.pop("loss")), *task.items(), ("iter", 6 * parts), *captions.items()]
    twice = 1 if fix else parts
    assert [name for name, _ in numbers] == [name for name, _ in expected]
    for (name, found), (_, right) in zip(numbers, expected, strict=True):
        wrong = right if name in ("iter", "loss") else right / twice
        assert float(found) == pytest.approx(wrong, abs=0.0006)  # three decimals are logged


# --- Answers and results --------------------------------------------------------------------------------------------


def grounding(place: str | None) -> SimpleNamespace:
    """Three expressions over 6 slots, the last two of the second image being padding.

    The global region scores highest, padding next, and then the boxes; ``best`` says which of the real boxes is.
    """
    scores = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    boxes = real.bool().clone()
    for row, last in enumerate((5, 3, 5)):
        if place is not None:
            boxes[row, 0 if place == "first" else last] = False
    scores[..., 0][real == 0] = 8.0
    scores[..., 0][(real == 1) & ~boxes] = 9.0
    best = scores[..., 0].masked_fill(~boxes, -100).argmax(1)
    target = torch.full((3, 6, 1), 0.25)
    target[[0, 1], best[:2], 0] = 0.75  # the third expression's best box is wrong
    features, spatials, words = torch.zeros(3, 6, 4), torch.zeros(3, 6, 5), torch.ones(3, 7, dtype=torch.long)
    names = torch.tensor([11, 12, 13])
    batch = (features, spatials, real, words, target, words, torch.zeros_like(words), names, torch.arange(3))
    return SimpleNamespace(
        scores=scores, batch=batch, best=best.tolist(), target=target, config=SimpleNamespace(add_global_imgfeat=place)
    )


@pytest.mark.parametrize("place", ["first", "last", None])
@pytest.mark.parametrize("fix", [(), ("referred-region",)])
def test_only_boxes_are_answers_to_referring_expressions(world, fix, place):
    made = grounding(place)
    tasks = {"TASK10": {"type": "V-logit", "process": "normal", "loss": "BCEWithLogitLoss"}}
    given = (made.config, tasks, torch.device("cpu"), "TASK10", made.batch)

    def model(*_inputs: Any) -> tuple[torch.Tensor, None, None, None]:
        return made.scores.clone(), None, None, None

    with world.prepared(TRAIN, *flags_of(world, "refer"), fix=fix) as script:
        criterion = script.module.LoadLoss(script.module.parse_args(), tasks, "10")
        loss, right, count = script.module.ForwardModelsVal(*given, model, criterion)
    with world.prepared(EVALUATE, *flags_of(world, "refer", script=EVALUATE), fix=fix) as script:
        criterion = script.module.LoadLoss(script.module.parse_args(), tasks, "10")
        evaluated = script.module.EvaluatingModel(*given, model, None, criterion, [], [])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(made.scores, made.target) * 6
    assert loss == evaluated[0] == pytest.approx(expected.item(), rel=1e-6) and count == evaluated[2] == 3
    found = [result["target"] for result in evaluated[3]]
    assert [result["id"] for result in evaluated[3]] == [11, 12, 13] and right == evaluated[1]
    if fix:
        assert found == made.best and right == 2
        assert [result["IOU"] for result in evaluated[3]] == [0.75, 0.75, 0.25]
    else:
        assert found[1] != made.best[1] and right < 2
        if place is not None:
            assert found == ([0, 0, 0] if place == "first" else [5, 3, 5]) and right == 0


def evaluate(world: VoltaWorld, task: str, weights: Path, out: Path, fix: Sequence[str]) -> None:
    world.run_here(EVALUATE, *flags_of(world, task, "--from_pretrained", weights, script=EVALUATE, out=out), fix=fix)


@pytest.mark.parametrize("fix", [(), ("referred-ids",)])
def test_results_say_which_expression_they_answer(world, weights, fix, tmp_path):
    evaluate(world, "refer", weights[0], tmp_path, fix)
    names = [result["id"] for result in json.loads(next(tmp_path.rglob("val_result.json")).read_text())]
    refs = [one for one in safe_pickle.load(world.path / REFER / "refcoco+" / "refs(unc).p") if one["split"] == "val"]
    images = [ref["image_id"] for ref in refs for _ in ref["sentences"]]
    sentences = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert names == (sentences if fix else images)
    assert len(set(sentences)) == len(names) > len(set(images))


def test_results_of_tasks_and_models_do_not_overwrite_each_other(world, weights, tmp_path):
    evaluations = [("refer", weights[0]), ("vqa", weights[0]), ("refer", weights[1])]
    for fix, kept in (((), 1), (("results-folder",), 3)):
        out = tmp_path / str(kept)
        for task, model in evaluations:
            evaluate(world, task, model, out, fix)
        results = sorted(out.rglob("val_result.json"))
        assert len(results) == kept
    folders = [file.relative_to(out).parts[:2] for file in results]
    assert folders == [("VQA", "one"), ("refcoco+", "one"), ("refcoco+", "other")]
    assert len({file.read_text() for file in results}) == 3
    flags = flags_of(world, "retrieval", "--from_pretrained", weights[0], script=RETRIEVAL, out=tmp_path)
    for fix, folder in (((), tmp_path), (("results-folder",), tmp_path / NAMES["retrieval"] / "one")):
        with world.prepared(RETRIEVAL, *flags, fix=fix) as script:
            assert Path(script.module.parse_args().output_dir) == folder


SHOWN = {  # the fix -> the test that shows it
    "negatives": test_negative_captions_are_other_images_own,
    "token-caches": test_changed_texts_answers_and_vocabularies_are_seen,
    "schedule": test_the_rate_falls_to_nothing_over_the_epochs_that_are_trained,
    "evaluation-steps": test_evaluations_are_as_many_steps_apart_as_asked_for,
    "accumulated-loss": test_logged_means_are_of_whole_steps,
    "referred-region": test_only_boxes_are_answers_to_referring_expressions,
    "referred-ids": test_results_say_which_expression_they_answer,
    "sampler-epochs": test_every_epoch_of_several_processes_has_an_order_of_its_own,
    "results-folder": test_results_of_tasks_and_models_do_not_overwrite_each_other,
}
