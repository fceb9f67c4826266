"""Reading weights runs no code; writing is whole or not at all, and gives back what was written."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from golden_files import load_golden
from model.small_models import encoder_of, static_model, switch_model
from volta_switch import UserError
from volta_switch.weights import load_volta, read_weights, shared_names, to_volta, write_weights


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
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())
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

    monkeypatch.setattr("volta_switch.weights.files.torch.save", full_disk)
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
