"""Loading accounts for every name and shape and runs no code; writing is whole or not at all."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from golden_files import load_golden
from model.small_models import encoder_of, static_model, switch_config, switch_model
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.weights import load_volta, read_weights, shared_names, to_volta, write_weights

NAME = "bert.encoder.layer.2.attention_self.query.weight"


@pytest.fixture
def uniter():
    """A reference model and its state."""
    golden = load_golden("ctrl_uniter")
    return BertForVLPreTraining(load_config(golden.config)), golden.part("state")


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def refused(model, state, **arguments):
    """The message with which a state is refused; the model must be as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_volta(model, state, **arguments)
    assert unchanged(model, before) and "\n" not in str(caught.value)
    return str(caught.value)


# --- Accounting ---------------------------------------------------------------------------------------------------


def test_a_missing_name_is_named(uniter):
    model, state = uniter
    del state[NAME]
    message = refused(model, state, source="my.bin")
    assert message.startswith("my.bin: ") and NAME in message and "missing" in message


def test_an_unexpected_name_is_named(uniter):
    model, state = uniter
    message = refused(model, {**state, "bert.extra.weight": torch.zeros(1)})
    assert "bert.extra.weight unexpected" in message


def test_a_misshapen_tensor_is_named_with_both_shapes(uniter):
    model, state = uniter
    state[NAME] = torch.zeros(24, 25)
    message = refused(model, state)
    assert NAME in message and "[24, 25]" in message and "[24, 24]" in message


def test_two_names_of_one_weight_must_agree(uniter):
    model, state = uniter
    twin = NAME.replace("query", "v_query")
    state[twin] = state[twin] + 1e-3
    message = refused(model, state)
    assert NAME in message and twin in message and "shared" in message


def test_a_checkpoint_of_another_architecture_is_refused(uniter):
    model, _ = uniter
    assert "missing" in refused(model, load_golden("ctrl_vilbert").part("state"))


def test_many_names_are_summed_up(uniter):
    model, _ = uniter
    assert f" and {len(model.state_dict()) - 3} more missing" in refused(model, {})


def test_names_that_may_be_fresh_keep_their_values(uniter):
    model, state = uniter
    pooler = {name: tensor for name, tensor in state.items() if "pooler" in name}
    before = model.state_dict()["bert.t_pooler.dense.weight"].clone()
    kept = load_volta(model, {name: t for name, t in state.items() if name not in pooler}, fresh=("pooler",))
    assert set(kept) == set(pooler)
    assert torch.equal(model.state_dict()["bert.t_pooler.dense.weight"], before)
    assert torch.equal(model.state_dict()[NAME], state[NAME])
    assert load_volta(model, state, fresh=("pooler",)) == []
    assert torch.equal(model.state_dict()["bert.t_pooler.dense.weight"], pooler["bert.t_pooler.dense.weight"])


def test_fresh_excuses_no_other_name_and_no_wrong_shape(uniter):
    model, state = uniter
    state["bert.t_pooler.dense.bias"] = torch.zeros(21)
    assert "bert.t_pooler.dense.bias" in refused(model, state, fresh=("pooler",))
    del state["bert.t_pooler.dense.bias"], state[NAME]
    assert NAME in refused(model, state, fresh=("pooler",))


def test_names_that_are_not_used_may_be_left_over(uniter):
    _, state = uniter
    golden = load_golden("ctrl_uniter")
    tasks = BertForVLTasks(load_config(golden.config), golden.tasks)
    assert "cls." in refused(tasks, {**state, **golden.part("task_state")})
    kept = load_volta(tasks, state, fresh=("clfs_dict",), unused=("cls.",))
    assert kept and all(name.startswith("clfs_dict.") for name in kept)
    assert torch.equal(tasks.state_dict()[NAME], state[NAME])


def test_data_parallels_prefix_is_dropped(uniter):
    model, state = uniter
    load_volta(model, {f"module.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(model.state_dict()[NAME], state[NAME])


def test_switch_bert_starts_from_a_uniter_checkpoint():
    golden = load_golden("ctrl_uniter")
    torch.manual_seed(0)
    model = BertForVLPreTraining(switch_config("ctrl_uniter"))
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if "switch" in name}
    assert "switch" in refused(model, golden.part("state"))
    kept = load_volta(model, golden.part("state"), fresh=("switch",))
    assert set(kept) == set(fresh)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in (golden.part("state") | fresh).items())


def test_voltas_state_repeats_shared_weights():
    model = static_model(["J"] * 3, "ctrl_uniter")
    groups = shared_names(model)
    assert ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"] in groups
    state = to_volta(model)
    assert all(torch.equal(state[names[0]], state[name]) for names in groups for name in names)
    assert not any(tensor.requires_grad for tensor in state.values())


# --- Files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_files_return_what_was_written(suffix, tmp_path):
    model = switch_model()[1]
    encoder_of(model).start_annealing(1.0, samples=4321)
    path = tmp_path / "new" / f"weights{suffix}"
    write_weights(path, to_volta(model))
    found, expected = read_weights(path), to_volta(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    fresh = switch_model(perturbed=False)[1]
    load_volta(fresh, found)
    assert unchanged(fresh, expected)
    assert os.listdir(path.parent) == [path.name]


def test_bin_files_are_plain_state_dicts_that_torch_loads(tmp_path):
    write_weights(tmp_path / "pytorch_model_9.bin", to_volta(static_model(["J"] * 3, "ctrl_uniter")))
    state = torch.load(tmp_path / "pytorch_model_9.bin", weights_only=True)
    assert type(state) is dict and state.keys() == load_golden("ctrl_uniter").part("state").keys()


def test_old_pickle_files_of_tensors_are_read(tmp_path):
    path = tmp_path / "old.bin"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(path)["a"], torch.arange(3.0))


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(form, tmp_path):
    mark = tmp_path / "mark"
    path = tmp_path / "pytorch_model_9.bin"
    payload = {"weight": torch.zeros(2), "attack": Malicious(f"touch {mark}")}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(payload["attack"], protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch zip")
    with pytest.raises(UserError, match=r"pytorch_model_9\.bin: could not be read as weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and not mark.exists()
    if form == "bare pickle":  # the test can tell: an unrestricted unpickler runs it
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(suffix, share, tmp_path):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, {"a": torch.randn(100, 100), "b": torch.randn(10)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=f"weights{suffix}: could not be read as weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"model_state_dict": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1)])
def test_files_that_hold_no_state_dict_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"other\.bin: expected a dictionary of tensors"):
        read_weights(tmp_path / "other.bin")


def test_missing_files_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.bin: no such weight file"):
        read_weights(tmp_path / "none.bin")
    with zipfile.ZipFile(tmp_path / "zip.bin", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "text.bin").write_text("not weights")
    for name in ("zip.bin", "text.bin"):
        with pytest.raises(UserError, match=f"{name}: could not be read"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_failed_write_leaves_the_old_file_and_no_other(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, {"a": torch.zeros(3)})

    def full_disk(tensors, target, metadata=None):
        with open(target, "wb") as half:
            half.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("volta_switch.weights.torch.save", full_disk)
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_weights(path, {"a": torch.ones(3)})
    assert os.listdir(tmp_path) == [path.name]
    assert torch.equal(read_weights(path)["a"], torch.zeros(3))


def test_a_write_over_a_folder_fails_and_leaves_no_other_file(tmp_path):
    (tmp_path / "weights.bin").mkdir()
    with pytest.raises(OSError):
        write_weights(tmp_path / "weights.bin", {"a": torch.zeros(3)})
    assert os.listdir(tmp_path) == ["weights.bin"]


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_written_files_store_a_shared_weight_once(suffix, tmp_path):
    model = static_model(["J"] * 3, "ctrl_uniter")
    path = tmp_path / f"weights{suffix}"
    write_weights(path, to_volta(model))
    plain = io.BytesIO()
    torch.save(model.state_dict(), plain)
    assert path.stat().st_size < 1.05 * len(plain.getvalue())
    found = read_weights(path)
    for names in shared_names(model):
        assert len({found[name].data_ptr() for name in names}) == 1


def test_weights_that_were_read_do_not_hang_on_their_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, {"a": torch.ones(100_000)})
    found = read_weights(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))  # in place, as a copying program may do
    assert torch.equal(found["a"], torch.ones(100_000))


def test_equal_weights_that_are_not_shared_stay_apart(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, {"a": torch.ones(3), "b": torch.ones(3), "c": torch.ones(6)[::2], "d": torch.zeros(0)})
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"a", "b", "c", "d"}
    assert torch.equal(read_weights(path)["c"], torch.ones(3))


def test_two_views_of_one_memory_are_two_weights(tmp_path):
    path, memory = tmp_path / "weights.safetensors", torch.arange(12.0)
    state = {"flat": memory, "square": memory.view(3, 4), "half": memory[:6], "turned": memory.view(3, 4).t()}
    write_weights(path, state)
    found = read_weights(path)
    assert found.keys() == state.keys() and all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_safetensors_of_other_programs_are_read(tmp_path):
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.arange(3.0)}, tmp_path / "model.safetensors", metadata)
        assert torch.equal(read_weights(tmp_path / "model.safetensors")["a"], torch.arange(3.0))


@pytest.mark.parametrize("shared", ["[]", "1", '{"b": "c"}', '{"a": "a"}', '{"b": 1}', '{"b": ["a"]}', "not JSON"])
def test_a_table_of_shared_weights_that_makes_no_sense_is_refused(shared, tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "model.safetensors", {"shared": shared})
    with pytest.raises(UserError, match=r"model\.safetensors: could not be read as weights"):
        read_weights(tmp_path / "model.safetensors")
