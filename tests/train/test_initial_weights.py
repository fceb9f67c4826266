"""The weights that a run may start from."""

import pytest
import torch

from synthetic_world import ENTRY_POINTS, json_of, refusal, weights_of, write_config
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.train.start import initial_weights
from volta_switch.weights import read_weights, write_weights

HEADS = {"TASK10": {"type": "V-logit"}}


def fresh(config, tasks=False, seed=1):
    torch.manual_seed(seed)
    return BertForVLTasks(config, HEADS) if tasks else BertForVLPreTraining(config)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def names_that_differ(left, right):
    return {name for name in left if name in right and not torch.equal(left[name], right[name])}


def test_nothing_given_leaves_the_random_start(world):
    model = fresh(world.config("switchbert"))
    before = state_of(model)
    assert initial_weights(model, world.config("switchbert"), "") == "random initial weights"
    assert not names_that_differ(before, state_of(model))
    assert switch_encoder(model).switch_start_temperature == world.config("switchbert").switch.temperature


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ""])
def test_a_task_model_takes_the_encoder_of_a_pretraining_run(world, pretrained, tmp_path, suffix):
    config, source = world.config("ctrl_uniter"), weights_of(pretrained("ctrl_uniter"))
    path = tmp_path / f"weights{suffix}"
    write_weights(path, source)
    model = fresh(config, tasks=True)
    heads = {name: tensor for name, tensor in state_of(model).items() if name.startswith("clfs_dict")}
    assert initial_weights(model, config, str(path)) == f"weights from {path}; left out: cls; fresh: clfs_dict"
    after = state_of(model)
    assert not names_that_differ(after, source) and not names_that_differ(heads, after)
    assert {name for name in after if name not in source} == set(heads)


def test_a_pretraining_run_may_start_from_another(world, pretrained):
    config, path = world.config("switchbert"), pretrained("switchbert") / "pytorch_model_best.bin"
    model = fresh(config)
    assert initial_weights(model, config, str(path)) == f"weights from {path}"
    encoder = switch_encoder(model)
    assert encoder.switch_samples == 0 and encoder.switch_start_temperature == config.switch.finetune_temperature
    annealing = {"bert.encoder.switch_samples", "bert.encoder.switch_start_temperature"}
    assert names_that_differ(state_of(model), weights_of(pretrained("switchbert"))) == annealing


@pytest.mark.parametrize("tasks", [False, True])
def test_switch_bert_starts_from_uniter_with_only_the_switchers_fresh(world, pretrained, tasks):
    config, path = world.config("switchbert"), pretrained("ctrl_uniter") / "pytorch_model_best.bin"
    model, source = fresh(config, tasks), weights_of(pretrained("ctrl_uniter"))
    before = state_of(model)
    assert initial_weights(model, config, str(path)) == (
        f"weights from {path}; " + ("left out: cls; fresh: clfs_dict, switchers" if tasks else "fresh: switchers")
    )
    after = state_of(model)
    assert not names_that_differ(after, source)
    assert {name for name in after if name not in source} == {
        name for name in after if "switch" in name or name.startswith("clfs_dict")
    }
    moved = names_that_differ(before, after)
    switchers = {name for name in after if "_switch." in name}
    assert switchers and not moved & switchers and switch_encoder(model).switch_start_temperature == 1.0


def test_a_half_switched_checkpoint_is_not_taken_for_a_static_one(world, pretrained, tmp_path):
    config, source = world.config("switchbert"), weights_of(pretrained("switchbert"))
    lost = next(name for name in source if "attention_switch" in name)
    write_weights(tmp_path / "half.bin", {name: tensor for name, tensor in source.items() if name != lost})
    with pytest.raises(UserError, match=f"{lost} missing"):
        initial_weights(fresh(config), config, str(tmp_path / "half.bin"))


def test_a_switched_checkpoint_is_not_taken_for_a_static_one(world, pretrained):
    config = world.config("ctrl_uniter")
    with pytest.raises(UserError, match=r"switch.* unexpected; is it a checkpoint of another architecture"):
        initial_weights(fresh(config), config, str(pretrained("switchbert") / "pytorch_model_best.bin"))


@pytest.mark.parametrize("lost", ["logit_fc.0.bias", "logit_fc.3.weight"])
def test_half_a_head_is_neither_fresh_nor_loaded(world, finetuned, tmp_path, lost):
    task = world.task("vqa", world.config("ctrl_uniter"))
    heads = {task.spec.key: task.spec.head()}
    state = weights_of(finetuned("ctrl_uniter", "vqa"))
    whole = BertForVLTasks(world.config("ctrl_uniter"), heads)
    write_weights(tmp_path / "whole.bin", state)
    assert initial_weights(whole, world.config("ctrl_uniter"), str(tmp_path / "whole.bin")).endswith("whole.bin")
    assert not names_that_differ(state_of(whole), state)
    name = f"clfs_dict.{task.spec.key}.{lost}"
    del state[name]
    write_weights(tmp_path / "half.bin", state)
    with pytest.raises(UserError, match=f"{name} missing"):
        initial_weights(BertForVLTasks(world.config("ctrl_uniter"), heads), world.config("ctrl_uniter"),
                        str(tmp_path / "half.bin"))  # fmt: skip


def test_another_tasks_head_is_left_out_and_told(world, finetuned):
    path = finetuned("ctrl_uniter", "vqa") / "pytorch_model_best.bin"
    told = initial_weights(fresh(world.config("ctrl_uniter"), tasks=True), world.config("ctrl_uniter"), str(path))
    assert told == f"weights from {path}; left out: clfs_dict.TASK1; fresh: clfs_dict"


def test_a_checkpoints_folder_is_a_start_like_its_weights(world, pretrained):
    folder = next((pretrained("ctrl_uniter") / "checkpoints").glob("step-*"))
    model = fresh(world.config("ctrl_uniter"))
    assert initial_weights(model, world.config("ctrl_uniter"), str(folder)) == f"weights from {folder}"
    assert not names_that_differ(state_of(model), read_weights(folder / "model.safetensors"))


def bert_state(model, config):
    """A Hugging Face BERT's state with the values of a model's text side."""
    renamed = {"attention_self": "attention.self", "attention_output": "attention.output"}
    state = {}
    for layer, (attention, feed) in enumerate(
        zip(config.bert_layer2attn_sublayer.values(), config.bert_layer2ff_sublayer.values(), strict=True)
    ):
        for number in (attention, feed):
            prefix = f"bert.encoder.layer.{number}."
            for name, tensor in model.state_dict().items():
                part, _, rest = name.removeprefix(prefix).partition(".")
                if name.startswith(prefix) and not rest.startswith("v_"):
                    state[f"bert.encoder.layer.{layer}.{renamed.get(part, part)}.{rest}"] = tensor
    for name, tensor in model.state_dict().items():
        if name.startswith("bert.embeddings.") and name.split(".")[2] in (
            "word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"
        ):  # fmt: skip
            state[name] = tensor
    return state


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("model", ["switchbert", "ctrl_vilbert"])
def test_the_text_side_starts_from_a_bert_folder(world, tmp_path, model, tasks):
    config = world.config(model)
    other = fresh(config, seed=2)
    bert = bert_state(other, config)
    write_weights(tmp_path / "bert" / "pytorch_model.bin", bert)
    start = fresh(config, tasks)
    before = state_of(start)
    told = initial_weights(start, config, str(tmp_path / "bert"))
    assert told == f"text side from {tmp_path / 'bert'}" + ("" if tasks else "; fresh: cls.predictions")
    moved = names_that_differ(before, state_of(start))
    assert moved and not names_that_differ({name: state_of(start)[name] for name in moved}, other.state_dict())
    assert not any("switch" in name or name.startswith("clfs_dict") for name in moved)
    if switch_encoder(start) is not None:  # BERT is no run of this program: pre-training's temperature stays
        assert switch_encoder(start).switch_start_temperature == config.switch.temperature


def test_pretraining_runs_from_a_bert_folder(world, tmp_path):
    config = world.config("ctrl_uniter")
    write_weights(tmp_path / "bert" / "model.safetensors", bert_state(fresh(config, seed=2), config))
    flags = ("--train_batch_size", 20, "--num_train_epochs", 1, "--learning_rate", 0, "--from_pretrained")
    run = world.run("train_concap", tmp_path, "ctrl_uniter", *flags, tmp_path / "bert")
    name = "bert.encoder.layer.2.attention_self.query.weight"
    assert torch.equal(weights_of(run)[name], fresh(config, seed=2).state_dict()[name])


def test_a_deeper_bert_starts_a_run_only_where_a_flag_says_so_and_the_record_tells(world, tmp_path, capsys):
    config = world.config("ctrl_uniter")
    deep = bert_state(fresh(config, seed=2), config)
    deep |= {name.replace(".layer.3.", ".layer.4."): tensor for name, tensor in deep.items() if ".layer.3." in name}
    write_weights(tmp_path / "bert" / "model.safetensors", deep)
    flags = ("--train_batch_size", 20, "--num_train_epochs", 1, "--from_pretrained", tmp_path / "bert")
    argv = [*world.flags("train_concap", tmp_path / "out", "ctrl_uniter"), *flags]
    message = refusal(ENTRY_POINTS["train_concap"], argv, capsys)
    assert "a BERT with 5 layers, where this model starts from a BERT with 4 layers" in message
    assert "--allow_deeper_bert" in message and not (tmp_path / "out").exists()
    run = world.run("train_concap", tmp_path / "out", "ctrl_uniter", *flags, "--allow_deeper_bert")
    start = f"text side from {tmp_path / 'bert'}; left out: layer 4 of BERT's 5; fresh: cls.predictions"
    assert json_of(run / "run.json")["start"] == start
    assert len([line for line in capsys.readouterr().err.splitlines() if start in line]) == 1


@pytest.mark.parametrize(("source", "reason"), [("none.bin", "no such weight file"), ("empty", "holds neither")])
def test_a_start_that_is_not_there_is_named(world, tmp_path, source, reason):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=reason) as caught:
        initial_weights(fresh(world.config("ctrl_uniter")), world.config("ctrl_uniter"), str(tmp_path / source))
    assert str(tmp_path / source) in str(caught.value)


def test_a_model_of_any_path_gives_its_run_the_files_name(world, tmp_path):
    path = write_config(tmp_path / "deep" / "folder" / "mine.json", world.config("ctrl_uniter"))
    flags = ("--train_batch_size", 20, "--num_train_epochs", 1, "--config_file", path, "--save_name", "again")
    assert world.run("train_concap", tmp_path, "ctrl_uniter", *flags).name == "mine-again"
