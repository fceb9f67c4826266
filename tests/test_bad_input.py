"""Bad input gets one line that says what to do, exit code 2 and no traceback, and leaves nothing behind."""

import json

import pytest

from synthetic_world import ENTRY_POINTS, refusal, run_script, write_config
from volta_switch import BertForVLPreTraining, BertForVLTasks
from volta_switch.data.files import safe_pickle
from volta_switch.weights import to_volta, write_weights

TRAINING = ["train_concap", "train_task"]
ALL = [*TRAINING, "eval_task", "eval_retrieval"]
TASK = {"train_concap": "", "train_task": "refer", "eval_task": "refer", "eval_retrieval": "retrieval"}
QUICK = {"train_concap": ("--train_batch_size", 10, "--num_train_epochs", 1), "train_task": ("--num_epoch", 1)}


@pytest.fixture
def refused(world, tmp_path, capsys):
    """refused(entry, *flags) -> the message, ``details`` lines after its first; checks that nothing was written."""

    def run(entry, *flags, at=world, model="ctrl_uniter", details=0, **changes):
        out = tmp_path / "out"
        argv = [*at.flags(entry, out, model, TASK[entry], **changes), *flags]
        message = refusal(ENTRY_POINTS[entry], argv, capsys, details)
        assert not out.exists(), sorted(out.rglob("*"))
        return message

    return run


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    """Random pre-training weights of a model, as a file."""
    folder = tmp_path_factory.mktemp("weights")

    def write(model, **changes):
        path = folder / f"{model}-{len(list(folder.iterdir()))}.bin"
        write_weights(path, to_volta(BertForVLPreTraining(world.config(model, **changes))))
        return path

    return write


# --- Models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ALL)
def test_an_unknown_key_of_the_configuration(refused, entry):
    message = refused(entry, "--set", "hidden_sise=3")
    assert "unknown key hidden_sise; did you mean hidden_size?" in message and "ctrl_uniter.json" in message


def test_an_unknown_key_in_a_file_of_ones_own(world, refused, tmp_path):
    path = write_config(tmp_path / "mine.json", world.config("switchbert"))
    values = json.loads(path.read_text())
    values["switch"]["topk"] = values["switch"].pop("top_k")
    path.write_text(json.dumps(values))
    message = refused("train_concap", "--config_file", path)
    assert message.startswith(f"{path}: ") and "unknown key switch.topk; did you mean switch.top_k?" in message


@pytest.mark.parametrize("entry", ALL)
def test_an_unknown_configuration(refused, entry):
    message = refused(entry, "--config", "demo/ctrl_unitor")
    assert "config demo/ctrl_unitor: no such file or name; did you mean demo/ctrl_uniter?" in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden_size", "--set hidden_size: expected key=value, for example switch.top_k=2"),
        ("=3", "expected key=value"),
        ("hidden_size=", "hidden_size: expected a whole number from 1 to 65536, found None"),
        ("hidden_size=wide", "hidden_size: expected a whole number from 1 to 65536, found 'wide'"),
        ("hidden_size={", "not valid JSON or YAML"),
        ("hidden_size.x=1", "hidden_size is not a section"),
        ("num_attention_heads=3", "not a multiple of 3 heads"),
        ("tt_attn_sublayers=[0, 1]", "sublayers [1] are named both as attention and as feed-forward sublayers"),
        ("switch.top_k=2", "switch is not a section of this configuration"),
    ],
)
def test_a_bad_setting(refused, setting, message):
    assert message in refused("train_concap", "--set", setting)


def test_a_vocabulary_of_another_size(world, refused, weights):
    size = world.config("ctrl_uniter").vocab_size
    for entry in ALL:
        message = refused(entry, "--set", f"vocab_size={size + 1}", "--from_pretrained", weights("ctrl_uniter"))
        assert f"vocab.txt has {size} tokens" in message and f"vocab_size {size + 1}; take the vocabulary" in message


def test_a_vocabulary_that_is_not_there(refused, tmp_path):
    message = refused("train_task", "--set", f"bert_model={tmp_path / 'none'}")
    assert str(tmp_path / "none") in message and "bert_model must be a directory with vocab.txt" in message


def test_a_bad_setting_of_the_switchers(refused):
    assert "switch.top_k: expected a whole number from 1 to 1000, found 0" in refused(
        "train_task", "--set", "switch.top_k=0", model="switchbert"
    )


def test_texts_longer_than_the_models_positions(refused):
    message = refused("train_concap", "--max_seq_length", 65)
    assert "max_seq_length is 65" in message and "max_position_embeddings" in message


# --- Data -----------------------------------------------------------------------------------------------------------


def test_a_missing_feature_file_of_conceptual_captions(refused, tmp_path):
    message = refused("train_concap", "--features_path", tmp_path / "none", details=2)
    assert f"{tmp_path / 'none' / 'training_feat_all.lmdb'}: no such file or folder; check the path" in message
    assert f"not there, either: {tmp_path / 'none' / 'validation_feat_all.lmdb'}" in message


def test_a_missing_caption_file(refused, tmp_path):
    (tmp_path / "caption_valid.json").write_text("{}")
    message = refused("train_concap", "--annotations_path", tmp_path)
    assert f"{tmp_path / 'caption_train.json'}: no such file or folder; check the path, or get Conceptual" in message


@pytest.mark.parametrize("entry", ["train_task", "eval_task", "eval_retrieval"])
def test_a_missing_feature_file_of_a_task(refused, world, weights, tmp_path, entry):
    bare = world.copy(tmp_path / "world", features_h5path1="none_feat.lmdb")
    start = task_weights(world, tmp_path, TASK[entry])
    message = refused(entry, "--from_pretrained", start, at=bare)
    assert "none_feat.lmdb: no such file or folder; check the path, or get " in message


def test_a_feature_file_cut_short(refused, world, tmp_path):
    bare = world.copy(tmp_path / "world")
    path = bare.path / "datasets/refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb"
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    assert "is cut short" in refused("train_task", at=bare)


@pytest.mark.parametrize(("key", "found"), [("v_feature_size", "feature_size"), ("v_num_classes", "num_classes")])
def test_regions_of_another_width_in_pretraining(refused, world, key, found):
    wrong = world.overrides[key] + 8
    message = refused("train_concap", "--set", f"{key}={wrong}")
    assert "training_feat_all.lmdb" in message and f"expects {wrong}; set {key} to {world.overrides[key]}" in message


@pytest.mark.parametrize("entry", ["train_task", "eval_task"])
def test_regions_of_another_width_in_a_task(refused, world, tmp_path, entry):
    wrong = world.overrides["v_feature_size"] + 8
    start = task_weights(world, tmp_path, "refer", v_feature_size=wrong)
    message = refused(entry, *(["--from_pretrained", start] if entry == "eval_task" else []), v_feature_size=wrong)
    assert "feat.lmdb" in message and f"set v_feature_size to {wrong - 8}" in message


def test_a_split_without_expressions(refused, world, tmp_path):
    empty = world.copy(tmp_path / "world")
    path = empty.path / "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p"
    safe_pickle.dump(path, [ref for ref in safe_pickle.load(path) if ref["split"] != "val"])
    message = refused("train_task", at=empty)
    assert f"{path}: split 'val' is empty; splits in the file: testA, testB, train" in message
    assert "split 'nowhere' is empty" in refused("train_task", "--train_split", "nowhere")


def test_a_split_without_captions(refused, world, tmp_path):
    empty = world.copy(tmp_path / "world")
    path = empty.path / "datasets/flickr30k/annotations/valid_ann.jsonl"
    path.write_text("\n")
    start = task_weights(world, tmp_path, "retrieval")
    assert f"{path}: the split is empty" in refused("eval_retrieval", "--from_pretrained", start, at=empty)


def test_a_split_without_questions(refused, world, tmp_path):
    empty = world.copy(tmp_path / "world")
    folder = empty.path / "datasets/vqa/annotations"
    (folder / "v2_OpenEnded_mscoco_train2014_questions.json").write_text('{"questions": []}')
    safe_pickle.dump(folder / "cache" / "train_target.pkl", [])
    assert "split 'train' of VQA is empty" in refused("train_task", "--task", "VQA", at=empty)


def test_pretraining_pairs_that_are_not_there(refused, world, tmp_path):
    from volta_switch.data.formats.concap import write_concap

    for split in ("training", "validation"):
        write_concap(tmp_path / f"{split}_feat_all.lmdb", [])
    message = refused("train_concap", "--features_path", tmp_path)
    assert f"{tmp_path / 'training_feat_all.lmdb'}: the split is empty" in message


def test_another_number_of_answers_than_the_head_has(refused, world, tmp_path):
    other = world.copy(tmp_path / "world", num_labels=3)
    assert "but the task's head has 3; set num_labels" in refused("train_task", "--task", "1", at=other)


@pytest.mark.parametrize("entry", ["train_task", "eval_task", "eval_retrieval"])
def test_an_unknown_task(refused, entry):
    message = refused(entry, "--task", "refcoco*")
    assert "no task 'refcoco*'; did you mean refcoco" in message and "choose one with --task" in message


def test_a_task_file_that_is_not_there(refused, tmp_path):
    message = refused("train_task", "--tasks_config_file", tmp_path / "none.yml")
    assert f"{tmp_path / 'none.yml'}: no such task file; shipped ones are in config_tasks/" in message


# --- Weights --------------------------------------------------------------------------------------------------------


def task_weights(world, folder, task, **changes):
    """Random weights of UNITER with a task's head, as a file."""
    made = world.task(task, world.config("ctrl_uniter"))
    path = folder / f"{task}.bin"
    write_weights(
        path, to_volta(BertForVLTasks(world.config("ctrl_uniter", **changes), {made.spec.key: made.spec.head()}))
    )
    return path


@pytest.mark.parametrize("entry", ALL)
def test_a_checkpoint_of_another_model(refused, weights, entry):
    path = weights("ctrl_vilbert")
    message = refused(entry, "--from_pretrained", path)
    assert message.startswith(f"{path}: bert.") and "is it a checkpoint of another architecture or head?" in message


@pytest.mark.parametrize("entry", TRAINING)
def test_a_checkpoint_of_another_size(refused, weights, entry):
    message = refused(entry, "--from_pretrained", weights("ctrl_uniter", intermediate_size=48, v_intermediate_size=48))
    assert "[48, 16], the model expects [32, 16]; is it a checkpoint of another size?" in message


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 300])
def test_a_damaged_weight_file(refused, weights, tmp_path, entry, damage):
    path = tmp_path / "damaged.bin"
    path.write_bytes(damage(weights("ctrl_uniter").read_bytes()))
    assert refused(entry, "--from_pretrained", path).startswith(f"{path}: could not be read as weights (")


@pytest.mark.parametrize("entry", ALL)
def test_a_weight_file_that_is_not_there(refused, tmp_path, entry):
    message = refused(entry, "--from_pretrained", tmp_path / "none.bin")
    assert f"{tmp_path / 'none.bin'}: no such weight file; give" in message


def test_a_bert_that_is_not_there(refused, tmp_path):
    (tmp_path / "bert").mkdir()
    assert "holds neither model.safetensors nor" in refused("train_concap", "--from_pretrained", tmp_path / "bert")


# --- Machines, hyperparameters, resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(refused, weights, entry, device):
    message = refused(entry, "--device", device, "--from_pretrained", weights("ctrl_uniter"))
    assert message.startswith(f"--device {device}: ") and "choose cpu" in message


@pytest.mark.parametrize(
    ("entry", "flags", "message"),
    [
        (
            "train_concap",
            ("--train_batch_size", 0),
            "--train_batch_size: expected a whole number from 1",
        ),
        ("train_concap", ("--gradient_accumulation_steps", 300), "lower one of these or raise the batch size"),
        ("train_task", ("--lr", -1), "--lr: expected a number from 0 to 100, found -1"),
        ("train_task", ("--adam_betas", 0.9, 1.5), "--adam_betas: expected a number from 0 to below 1, found 1.5"),
    ],
)
def test_a_hyperparameter_out_of_range(refused, entry, flags, message):
    assert message in refused(entry, *flags)


@pytest.mark.parametrize("entry", TRAINING)
def test_a_state_that_is_not_there(refused, tmp_path, entry):
    message = refused(entry, "--resume_file", tmp_path / "none")
    assert f"{tmp_path / 'none'}: no checkpoint to resume from; no earlier checkpoint is good: leave out" in message


@pytest.mark.parametrize("entry", TRAINING)
def test_weights_are_no_state(refused, weights, entry):
    path = weights("ctrl_uniter")
    message = refused(entry, "--resume_file", path)
    assert f"{path}: could not be read as a checkpoint (expected a folder such as checkpoints/step-" in message
    assert "pytorch_model_*.bin, with --from_pretrained)" in message


@pytest.mark.parametrize(
    ("entry", "flags", "named"),
    [
        ("train_concap", ("--learning_rate", 3e-4), "hyperparameters.learning_rate = 0.0001, now it is 0.0003"),
        ("train_concap", ("--objective", 0), "objective = 1, now it is 0"),
        ("train_concap", ("--set", "hidden_dropout_prob=0.2"), "config.hidden_dropout_prob = 0.0, now it is 0.2"),
        ("train_task", ("--batch_size", 5), "hyperparameters.batch_size = 64, now it is 5"),
        ("train_task", ("--task", 1), " task = TASK10, now it is TASK1"),
    ],
)
def test_resuming_with_other_settings_changes_nothing(world, tmp_path, capsys, entry, flags, named):
    argv = [*world.flags(entry, tmp_path, "ctrl_uniter", TASK[entry]), *map(str, QUICK[entry])]
    run = ENTRY_POINTS[entry](argv)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    checkpoint = next((run / "checkpoints").iterdir())
    message = refusal(ENTRY_POINTS[entry], [*argv, "--resume_file", checkpoint, *flags], capsys)
    assert named in message and "use the same settings" in message
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_made(world, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    argv = world.flags("train_concap", tmp_path / "file" / "out", "ctrl_uniter")
    message = refusal(ENTRY_POINTS["train_concap"], argv, capsys)
    assert str(tmp_path / "file") in message and "give another --output_dir" in message


# --- In processes of their own --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "flags", "said"),
    [
        ("train_concap", ("--set", "hidden_sise=3"), "did you mean hidden_size?"),
        ("train_task", ("--train_split", "nowhere"), "split 'nowhere' is empty"),
    ],
)
def test_the_scripts_say_one_line_and_exit_with_2(world, tmp_path, entry, flags, said):
    """What the tests above see inside one process, warnings of libraries included."""
    done = run_script(entry, world.flags(entry, tmp_path / "out", "ctrl_uniter", TASK[entry]), *flags)
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())
