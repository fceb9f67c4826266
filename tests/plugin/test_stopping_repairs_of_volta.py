"""Every repair of VOLTA's own errors: its failure without the repair, and none with it."""

import _pickle
import json
import pickle
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from torch.nn import functional

from plugin.seen_failures import SeenFailures, failure_of
from plugin.volta_runs import CONCAP, volta_checkout
from volta_switch import UserError
from volta_switch.plugin.repairs import REPAIRS
from volta_switch.plugin.replacements import SAFE_PICKLE
from volta_switch.plugin.script import LANG4VIS, VIS4LANG

HOME = volta_checkout()
TOLERANCE = 1e-5
ABLATION = {LANG4VIS, VIS4LANG}  # whose repairs are seen in ``test_repairs_of_ablation``
OWN = [one for one in REPAIRS if not one.scripts or not set(one.scripts) <= ABLATION]
sees = SeenFailures(one for one in OWN if not one.fixes_numbers and one.stage != "packages")


RETRIEVAL_ERRORS = {
    "retrieval-split": "KeyError: '8'",  # in place of TASK8, for the results' name
    "retrieval-images": "AttributeError: 'Namespace' object has no attribute 'num_images'",
    "retrieval-batch": "ValueError: too many values to unpack (expected 3",  # features of several captions
    "zero-shot": "ValueError: too many values to unpack (expected 5",
}


@pytest.fixture
def corrupted(volta_world, tmp_path):
    """A copy for one test, which corrupts it."""
    return volta_world.copy(tmp_path / "world")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of no weights: VOLTA goes on from it with random ones."""
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    torch.save({}, path)
    return path


@pytest.fixture
def flags(world, weights, tmp_path):
    """The command line of a script, with results below ``tmp_path``; ``where`` is another world."""

    def flags_of(script, task, where=world):
        epochs = ("--num_epoch", "1") if script == "train_task.py" else ()
        return [*where.flags(script, "ctrl_uniter", tmp_path / "out", task), "--from_pretrained", weights, *epochs]

    return flags_of


@pytest.fixture(scope="module")
def pretrained(volta_world, tmp_path_factory):
    """One epoch of pre-training from scratch with every repair, in a process of its own: its folder."""
    out = tmp_path_factory.mktemp("pretrained")
    volta_world.succeed("train_concap.py", *concap_flags(volta_world, out))
    return out / "ctrl_uniter"


@pytest.fixture(scope="module")
def finetuned(world, weights, tmp_path_factory):
    """One epoch of VQA with every repair: its folder."""
    out = tmp_path_factory.mktemp("finetuned")
    vqa = world.flags("train_task.py", "ctrl_uniter", out, "vqa")
    world.run_here("train_task.py", *vqa, "--from_pretrained", weights, "--num_epoch", "1")
    return out / "VQA_ctrl_uniter"


def concap_flags(world, out):
    return [*world.flags("train_concap.py", "ctrl_uniter", out), "--num_train_epochs", "1"]


@pytest.mark.parametrize("name", sees.repairs)
def test_every_repair_of_volta_names_its_lines_and_has_a_test_that_sees_what_it_mends(name):
    sees.check(name, HOME)


@sees("validation-log", "step_val_CC")
def test_without_validation_log_the_first_epoch_is_lost(volta_world, pretrained, tmp_path):
    flags = concap_flags(volta_world, tmp_path)
    done = volta_world.run("train_concap.py", *flags, options=("--without", "validation-log"))
    assert done.returncode == 1
    assert "TypeError: tbLogger.step_val_CC() takes 8 positional arguments but 9 were given" in done.stderr
    saved = {path.name for path in tmp_path.glob("ctrl_uniter/pytorch_model_*.bin")}
    assert saved == {"pytorch_model_-1.bin"}
    assert (pretrained / "pytorch_model_0.bin").is_file()
    assert "Validation [Conceptual_Caption]: masked_t" in (pretrained / "out.txt").read_text()


@sees("weight-names", "_weight_name.json")
def test_without_weight_names_no_training_starts_from_scratch(volta_world, world, pretrained, tmp_path):
    flags = concap_flags(volta_world, tmp_path)
    done = volta_world.run("train_concap.py", *flags, options=("--without", "weight-names"))
    assert done.returncode == 1
    assert "No such file or directory: 'config/_weight_name.json'" in done.stderr
    assert (pretrained / "pytorch_model_0.bin").is_file()
    listed = "config/bert-base-uncased_weight_name.json"  # of the checkout, whatever the working directory
    with world.prepared("train_concap.py") as script, script.module.open(listed, "r") as file:
        assert json.load(file) == json.loads((HOME / listed).read_text())


@sees("config-name", "config_file", "config_file")
def test_without_config_name_a_run_is_named_after_a_folder_or_crashes(corrupted, flags, tmp_path):
    command = flags("train_task.py", "vqa", where=corrupted)
    corrupted.run_here("train_task.py", *command)
    assert (tmp_path / "out" / "VQA_ctrl_uniter" / "pytorch_model_0.bin").is_file()
    corrupted.run_here("train_task.py", *command, without=("config-name",))
    first_folder = corrupted.path.parts[1]  # of the configuration's path, in which config/X.json is expected
    assert (tmp_path / "out" / f"VQA_{first_folder}" / "pytorch_model_0.bin").is_file()
    shutil.copy(corrupted.config("ctrl_uniter"), corrupted.path / "mine.json")
    for script, task in (("train_concap.py", ""), ("train_task.py", "vqa")):
        bare = [*corrupted.flags(script, "ctrl_uniter", tmp_path / "bare", task), "--config_file", "mine.json"]
        failure = failure_of(corrupted, script, *bare, without=("config-name",))
        assert failure == "IndexError: list index out of range", script


@sees("box-count", "image_feature[")
def test_without_box_count_records_have_thirty_six_boxes_or_none(world):
    def preprocessed(boxes, without=()):
        widths, numbers = (2048, 1601, 401, 4), np.zeros(boxes, "i8")
        features, classes, attributes, corners = (np.full((boxes, width), 0.5, "f4") for width in widths)
        record = [features, classes, numbers, features[:, 0], numbers, features[:, 0], attributes, corners]
        with world.prepared("train_concap.py", without=without) as script:
            concap = script.volta("datasets.concept_cap_dataset")
            script.patches.set(concap.random, "random", lambda: 0.1)  # every region is masked
            tokenizer = script.volta("task_utils").AutoTokenizer.from_pretrained("bert-world")
            captions = str(CONCAP / "annotations" / "caption_train.json")
            preprocess = concap.BertPreprocessBatch(captions, tokenizer, 24, 36, 1)
            return preprocess([*record, str(boxes), "10", "10", "1", "a ball"])

    for boxes in (20, 40):
        with pytest.raises(ValueError, match=r"could not (be )?broadcast"):
            preprocessed(boxes, without=("box-count",))
    for boxes in (20, 36, 40):
        sample = preprocessed(boxes)
        assert {len(sample[field]) for field in range(5, 16)} == {36}  # all that has regions
        assert sample[14].sum() == min(boxes, 36)  # the mask


@sees("feature-targets", "pre_vis_criterions")
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("target", ["1", "5"])  # 2 fails in any case: VOLTA's indices of its negatives are no integers
def test_without_feature_targets_the_global_region_has_no_prediction(world, place, target):
    refused = pytest.raises(RuntimeError, match=r"size of tensor a \(36\) must match the size of tensor b \(37\)")
    with world.prepared("train_concap.py", without=("feature-targets",)) as script, refused:
        feature_loss(script, world, target, place)
    with world.prepared("train_concap.py") as script:
        loss, expected = feature_loss(script, world, target, place)
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)


def feature_loss(script, world, target, place):
    """The loss of a visual target for a batch of 2, and the mean over the masked regions that it should be."""
    torch.manual_seed(0)
    config = world.config("ctrl_uniter", visual_target_weights={target: 1}, add_global_imgfeat=place)
    model = script.volta("encoders").BertForVLPreTraining(script.volta("config").BertConfig.from_json_file(config))
    seen = []
    model.cls.register_forward_hook(lambda module, given, scores: seen.append(scores[1][target]))
    features, label = torch.randn(2, 37, 2048), torch.full((2, 36), -1)
    label[:, :5] = 1
    labels = {"image_label": label, "next_sentence_label": torch.zeros(2, dtype=torch.long)}
    _, loss, _ = model(torch.ones(2, 5, dtype=torch.long), features, torch.rand(2, 37, 5), **labels)
    regions = slice(1, None) if place == "first" else slice(0, -1)
    mean = {"1": functional.mse_loss, "5": functional.smooth_l1_loss}[target]
    return loss, mean(seen[0][:, regions][label == 1], features[:, regions][label == 1])


@sees("lxmert-model", "config.model")
def test_without_lxmert_model_no_weights_are_loaded_into_ctrl_lxmert(world, flags):
    assert "model" not in json.loads((HOME / "config" / "ctrl_lxmert.json").read_text())
    command = [*flags("eval_task.py", "vqa"), "--config_file", world.config("ctrl_lxmert", drop=["model"])]
    world.run_here("eval_task.py", *command)
    failure = failure_of(world, "eval_task.py", *command, without=("lxmert-model",))
    assert failure == "AttributeError: 'BertConfig' object has no attribute 'model'"


@sees("missing-weights", "return None")
def test_without_missing_weights_a_wrong_path_is_none_in_place_of_a_model(world, flags):
    command = [*flags("eval_task.py", "vqa"), "--from_pretrained", "nowhere.bin"]
    failure = failure_of(world, "eval_task.py", *command, without=("missing-weights",))
    assert failure == "AttributeError: 'NoneType' object has no attribute 'to'"
    failure = failure_of(world, "eval_task.py", *command)
    assert failure.startswith("UserError: --from_pretrained nowhere.bin: no such file")


@sees("hub-weights", "s3")
def test_without_hub_weights_those_in_the_hubs_cache_are_not_found(world, monkeypatch, tmp_path):
    name = "bert-base-uncased"
    folder, revision, weight = tmp_path / "hub" / f"models--{name}", "1" * 40, torch.full((16,), 7.0)
    for part in ("refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    state = {"bert.encoder.layer.0.attention.output.dense.bias": weight}
    torch.save(state, folder / "snapshots" / revision / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for variable in ("HTTPS_PROXY", "https_proxy"):  # no network
        monkeypatch.setenv(variable, "http://127.0.0.1:9")

    def loaded(without=()):
        with world.prepared("train_concap.py", without=("missing-weights", *without)) as script:
            script.patches.set(script.volta("utils"), "PYTORCH_PRETRAINED_BERT_CACHE", tmp_path / "cache of 2019")
            config = script.volta("config").BertConfig.from_json_file(world.config("ctrl_uniter"))
            model = script.volta("encoders").BertForVLPreTraining
            return model.from_pretrained(name, config=config, from_hf=True)

    assert torch.equal(loaded().state_dict()["bert.encoder.layer.0.attention_output.dense.bias"], weight)
    assert loaded(without=("hub-weights",)) is None


@sees("checkpoint-logger", "torch.load")
def test_without_checkpoint_logger_no_run_is_resumed(world, flags, finetuned):
    command = [*flags("train_task.py", "vqa"), "--num_epoch", "2"]
    command += ["--resume_file", finetuned / "pytorch_ckpt_latest.tar"]
    failure = failure_of(world, "train_task.py", *command, without=("checkpoint-logger",))
    assert failure.startswith("UnpicklingError: Weights only load failed")
    assert "volta.train_utils.tbLogger" in failure
    out = resumed(world, flags, finetuned)
    first, latest = (torch.load(at / "pytorch_ckpt_latest.tar", weights_only=False) for at in (finetuned, out))
    assert (latest["epoch_id"], latest["global_step"]) == (1, 2 * first["global_step"])
    assert latest["tb_logger"].task_step["TASK1"] == latest["global_step"]  # it went on counting


def resumed(world, flags, finetuned, without=()):
    """Trains a copy of a run for one epoch more: its folder."""
    command = [*flags("train_task.py", "vqa"), "--num_epoch", "2"]
    out = Path(command[command.index("--output_dir") + 1], finetuned.name)
    shutil.copytree(finetuned, out, dirs_exist_ok=True)
    world.run_here("train_task.py", *command, "--resume_file", out / "pytorch_ckpt_latest.tar", without=without)
    return out


@sees("kept-log", '"w"')
def test_without_kept_log_a_resumed_run_empties_its_log(world, flags, finetuned):
    first = (finetuned / "out.txt").read_text()
    assert first.count("Validation [VQA]") == 1
    kept = (resumed(world, flags, finetuned) / "out.txt").read_text()
    assert kept.startswith(first)
    assert kept.count("Validation [VQA]") == 2
    emptied = (resumed(world, flags, finetuned, without=("kept-log",)) / "out.txt").read_text()
    assert emptied.count("Validation [VQA]") == 1


@sees("task-format", '"format"')
def test_without_task_format_no_task_is_trained(world, flags, finetuned):
    for file in sorted((HOME / "config_tasks").glob("ctrl_*_tasks.yml")):
        assert "format:" not in file.read_text(), file
    failure = failure_of(world, "train_task.py", *flags("train_task.py", "vqa"), without=("task-format",))
    assert failure == "KeyError: 'format'"
    assert (finetuned / "pytorch_model_0.bin").is_file()


@sees("evaluation-annotations", "val_annotations_jsonpath")
@pytest.mark.parametrize(("script", "task"), [("eval_task.py", "vqa"), ("eval_retrieval.py", "retrieval")])
def test_without_evaluation_annotations_no_model_is_evaluated(script, task, world, flags, tmp_path):
    failure = failure_of(world, script, *flags(script, task), without=("evaluation-annotations",))
    assert failure == "NameError: name 'val_annotations_jsonpath' is not defined"
    world.run_here(script, *flags(script, task))
    assert list(tmp_path.rglob("*_result.json"))


@sees("nlvr2-cache", "cache_path")
def test_without_nlvr2_cache_the_folder_must_be_there(corrupted, flags):
    cache = corrupted.path / "datasets" / "nlvr2" / "annotations" / "cache"
    shutil.rmtree(cache)
    command = flags("eval_task.py", "nlvr2", where=corrupted)
    failure = failure_of(corrupted, "eval_task.py", *command, without=("nlvr2-cache",))
    assert failure.startswith("FileNotFoundError:") and "NLVR2_dev" in failure
    corrupted.run_here("eval_task.py", *command)
    assert [path.name for path in cache.iterdir()] == ["NLVR2_dev_bert-world_13.pkl"]


@sees("image-index", "index(image_id)")
def test_without_image_index_an_image_that_is_missing_is_not_named(world):
    def read(image, without=()):
        with world.prepared("train_task.py", without=without) as script:
            config = script.volta("config").BertConfig.from_json_file(world.config("ctrl_uniter"))
            reader = script.volta("datasets._image_features_reader").ImageFeaturesH5Reader(path, config)
            try:
                return reader[reader._image_ids[3].decode() if image is None else image]
            finally:
                reader.env.close()

    path = "datasets/nlvr2/resnet101_faster_rcnn_genome_imgfeats/volta/nlvr2_feat.lmdb"
    with pytest.raises(ValueError, match="is not in list"):
        read("test-1-0-img7", without=("image-index",))
    with pytest.raises(UserError, match=f"{path}: holds no features of image test-1-0-img7"):
        read("test-1-0-img7")
    for value, same in zip(read(None), read(None, without=("image-index",)), strict=True):
        assert np.array_equal(value, same)


@sees("safe-pickles", "pickle.loads")
def test_without_safe_pickles_a_file_runs_code(corrupted, flags, tmp_path):
    cache = corrupted.path / "datasets" / "vqa" / "annotations" / "cache"
    command = flags("eval_task.py", "vqa", where=corrupted)
    for _ in ("writes the cache", "reads it"):
        corrupted.run_here("eval_task.py", *command)
    file, made = cache / "VQA_val_bert-world_14.pkl", tmp_path / "made by the pickle"
    assert file.is_file()
    file.write_bytes(f"cos\nmkdir\n(V{made}\ntR.".encode())  # a pickle that makes a folder when it is read
    failure = failure_of(corrupted, "eval_task.py", *command)
    assert failure.startswith("UserError:") and file.name in failure and "os.mkdir" in failure
    assert not made.exists()
    failure_of(corrupted, "eval_task.py", *command, without=("safe-pickles",))
    assert made.is_dir()


def test_no_module_that_a_script_imports_can_read_a_pickle_otherwise(world):
    with world.prepared("train_task.py") as script:
        modules = [sys.modules[name] for name in sys.modules if name.startswith(("volta.", "tools.refer"))]
        values = [(module, value) for module in (*modules, script.module) for value in vars(module).values()]
    assert sum(value is SAFE_PICKLE for _, value in values) >= 10
    unsafe = (pickle, _pickle, pickle.load, pickle.loads)
    assert {module.__name__ for module, value in values if any(value is one for one in unsafe)} == set()


@sees("retrieval-split", "val_split")
@sees("retrieval-images", "args.num_images")
@sees("retrieval-batch", "eval_batch_size")
@sees("zero-shot", "vil_logit")
@pytest.mark.parametrize(("name", "error"), RETRIEVAL_ERRORS.items())
def test_without_a_repair_of_retrieval_it_crashes(name, error, world, flags, tmp_path, capsys):
    assert "eval_batch_size: 512" in (world.path / "tasks.yml").read_text()
    command = [*flags("eval_retrieval.py", "retrieval"), *(["--zero_shot"] if name == "zero-shot" else [])]
    assert failure_of(world, "eval_retrieval.py", *command, without=(name,)).startswith(error)
    printed = capsys.readouterr().out
    assert ("Image Retrieval" in printed) == (name in ("retrieval-split", "retrieval-images"))
    assert "Text Retrieval" not in printed
    assert bool(list(tmp_path.rglob("*_result.json"))) == (name == "retrieval-images")


@pytest.mark.parametrize("more", [(), ("--zero_shot",)])
def test_with_every_repair_both_kinds_of_retrieval_are_reported(more, world, flags, tmp_path, capsys):
    world.run_here("eval_retrieval.py", *flags("eval_retrieval.py", "retrieval"), *more)
    printed = capsys.readouterr().out
    assert "Image Retrieval" in printed and "Text Retrieval" in printed
    assert [path.name for path in tmp_path.rglob("*_result.json")] == ["val_result.json"]
