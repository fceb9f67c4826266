"""eval_task and eval_retrieval: the run's own validation again, results on disk, routes read softly or hard."""

import pytest
import torch

from synthetic_world import TASKS, json_of, log_of
from volta_switch import UserError
from volta_switch.checksums import SUMS
from volta_switch.train.flags import evaluation_flags

NAMES = {"vqa": "VQA", "retrieval": "RetrievalFlickr30k", "refer": "refcoco+"}


@pytest.mark.parametrize(("task", "routing"), [("refer", "hard"), ("refer", "soft"), ("vqa", "hard")])
def test_the_last_epochs_weights_score_as_its_validation_did(world, finetuned, tmp_path, task, routing):
    run = finetuned("switchbert", task)
    logged = log_of(run, "valid")[-1]
    flags = ("--from_pretrained", run / "pytorch_model_2.bin", "--routing", routing, "--batch_size", 7)
    found = world.run("eval_task", tmp_path, "switchbert", *flags, task=task).metrics
    suffix = "_soft_routes" if routing == "soft" else ""
    official = found.pop("vqa_accuracy", 0)  # is worked out in tests only
    assert 0 <= official <= 100
    for name, value in found.items():
        assert value == pytest.approx(logged[name + suffix], rel=1e-4), name
    assert logged["loss"] != pytest.approx(logged["loss_soft_routes"], rel=1e-6)


@pytest.mark.parametrize("task", ["vqa", "refer"])
def test_eval_task_writes_results_and_metrics(world, finetuned, tmp_path, task, capsys):
    run = finetuned("ctrl_uniter", task)
    weights = run / "pytorch_model_best.bin"
    features = "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/test_feat.lmdb"
    flags = ["--from_pretrained", weights, "--split", "test"]
    flags += ["--val_features_lmdbpath", world.path / features] if task == "vqa" else []
    found = world.run("eval_task", tmp_path, "ctrl_uniter", *flags, task=task)
    folder = tmp_path / f"{NAMES[task]}_ctrl_uniter"
    assert {path.name for path in folder.iterdir()} == {"test_result.json", "test_metrics.json", SUMS}
    assert json_of(folder / "test_result.json") == found.results
    said = json_of(folder / "test_metrics.json")
    of = said.pop("of")
    assert (of["split"], of["routing"], of["precision"]) == ("test", "hard", "float32") and "test: features" in of[
        "data"
    ]
    assert said == {
        "task": TASKS[task], "name": NAMES[task], "split": "test", "weights": str(weights),
        **found.notes, **found.metrics,
    }  # fmt: skip
    shown = capsys.readouterr().err
    assert all(f"{name} {value:.2f}" in shown for name, value in found.metrics.items())
    assert found.notes == ({"boxes": "detected"} if task == "refer" else {})
    assert all(f"{name}: {value}" in shown for name, value in found.notes.items())


def test_annotated_boxes_and_voltas_way_to_count_are_flags(world, finetuned, tmp_path):
    weights = finetuned("ctrl_uniter", "refer") / "pytorch_model_best.bin"
    flags = ("--from_pretrained", weights, "--split", "test", "--boxes", "gt", "--volta-compat")
    found = world.run("eval_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    assert found.notes == {"boxes": "gt"} and found.metrics["oracle_ceiling"] == 100
    assert all(isinstance(result["id"], int) for result in found.results)  # of images; ours are texts, of sentences


def test_eval_retrieval_tests_all_pairs_in_both_directions(world, finetuned, tmp_path):
    run = finetuned("switchbert", "retrieval")
    flags = ("--from_pretrained", run / "pytorch_model_best.bin", "--split", "test", "--batch_size", 16)
    found = world.run("eval_retrieval", tmp_path, "switchbert", *flags, task="retrieval")
    saved = json_of(tmp_path / "RetrievalFlickr30k_switchbert" / "test_metrics.json")
    names = {f"{way}_{metric}" for way in ("ir", "tr") for metric in ("r1", "r5", "r10", "median_rank", "mean_rank")}
    assert set(found.metrics) == names and found.metrics.items() <= saved.items()
    assert found.metrics["ir_r10"] == 100 and 1 <= found.metrics["ir_mean_rank"] <= 10  # over ten images
    assert json_of(tmp_path / "RetrievalFlickr30k_switchbert" / "test_result.json") == found.results


def test_zero_shot_retrieval_reads_a_pretraining_models_matching_head(world, pretrained, tmp_path):
    weights = pretrained("ctrl_uniter") / "pytorch_model_best.bin"
    found = world.run("eval_retrieval", tmp_path, "ctrl_uniter", "--from_pretrained", weights, "--zero_shot",
                      task="retrieval")  # fmt: skip
    captions = len(world.task("retrieval", world.config("ctrl_uniter")).dataset("val", training=False))
    assert len(found.results) == captions
    assert (tmp_path / "RetrievalFlickr30k_ctrl_uniter" / "val_result.json").is_file()
    with pytest.raises(UserError, match="clfs_dict"):  # a task model's head is not left out silently
        world.run("eval_retrieval", tmp_path, "ctrl_uniter", "--from_pretrained", weights, task="retrieval")


def test_workers_change_no_result(world, finetuned, tmp_path):
    weights = finetuned("ctrl_uniter", "refer") / "pytorch_model_best.bin"
    alone, two = (
        world.run("eval_task", tmp_path, "ctrl_uniter", "--from_pretrained", weights, flag, workers, task="refer")
        for flag, workers in (("--num_workers", 0), ("--num_val_workers", 2))
    )
    assert alone == two


def test_retrieval_is_the_only_task_of_eval_retrieval(world, finetuned, tmp_path):
    weights = finetuned("ctrl_uniter", "refer") / "pytorch_model_best.bin"
    with pytest.raises(UserError, match=r"TASK10 \(refcoco\+\) is no retrieval task; evaluate it with eval_task.py"):
        world.run("eval_retrieval", tmp_path / "out", "ctrl_uniter", "--from_pretrained", weights, task="refer")
    assert not (tmp_path / "out").exists()


def test_weights_must_be_named(world, tmp_path):
    with pytest.raises(UserError, match="--from_pretrained: name the model to evaluate"):
        world.run("eval_task", tmp_path / "out", "ctrl_uniter", task="refer")
    assert not (tmp_path / "out").exists()


def test_the_random_generator_does_not_decide(world, finetuned, tmp_path):
    weights = finetuned("switchbert", "retrieval") / "pytorch_model_best.bin"
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(
            world.run("eval_retrieval", tmp_path, "switchbert", "--from_pretrained", weights, task="retrieval")
        )
    assert found[0] == found[1]


def test_flags_of_voltas_evaluation_are_taken():
    line = """--config_file config/ctrl_uniter_base.json --from_pretrained x.bin --tasks_config_file t.yml --task 8
        --split test --batch_size 1 --caps_per_image 5 --num_subiters 2 --output_dir o --seed 1 --in_memory"""
    args = evaluation_flags("", batch_size=3).parse_args(line.split())
    assert (args.batch_size, args.split, args.in_memory, args.routing) == (1, "test", True, "hard")
