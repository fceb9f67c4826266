"""A weight file that this project wrote, of which anything was changed, is refused or holds what was written."""

import random
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from volta_switch import UserError
from volta_switch.weights import read_weights, write_weights

TABLE = torch.arange(12.0).view(3, 4)
STATE = {
    "bert.embeddings.word_embeddings.weight": TABLE,
    "cls.predictions.decoder.weight": TABLE,
    "bert.encoder.switch_samples": torch.tensor(7),
    "bert.half": torch.ones(3, dtype=torch.bfloat16),
    "bert.none": torch.zeros(0),
}


def same(found):
    return found.keys() == STATE.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in STATE.items()
    )


def refused_or_the_same(path, data, what):
    """Whether changed data are refused; else they must hold what was written."""
    path.write_bytes(data)
    try:
        found = read_weights(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 600, what
        return True
    assert same(found), what
    return False


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_file_with_a_bit_flipped_is_refused_or_holds_what_was_written(suffix, tmp_path):
    path, rng = tmp_path / f"weights{suffix}", random.Random(0)
    write_weights(path, STATE)
    data, refused = path.read_bytes(), 0
    places = list(range(len(data)))
    for place in rng.sample(places, min(len(places), 600)):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        refused += refused_or_the_same(path, bytes(changed), f"byte {place}: {changed[place]} for {data[place]}")
    assert refused > 150


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_file_with_another_number_is_refused(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, STATE)
    numbers = TABLE.numpy().tobytes()
    assert path.read_bytes().count(numbers) == 1
    changed = path.read_bytes().replace(numbers, numbers[:-4] + numbers[:4])
    assert refused_or_the_same(path, changed, "the last number")
    with pytest.raises(UserError, match="damaged: "):
        read_weights(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: tensors.update(bert=tensors.pop("bert.half")),
        lambda tensors, metadata: tensors.update({"bert.half": tensors["bert.half"].half()}),
        lambda tensors, metadata: tensors.update({"bert.half": tensors["bert.half"][None]}),
        lambda tensors, metadata: tensors.pop("bert.none"),
        lambda tensors, metadata: tensors.update({"bert.half": torch.full((3,), 2, dtype=torch.bfloat16)}),
        lambda tensors, metadata: metadata.update(shared="{}"),
        lambda tensors, metadata: metadata.update(crc32="0"),
    ],
)
def test_what_a_safetensors_file_holds_is_what_its_checksum_says(change, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, STATE)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, metadata)
    assert same(read_weights(path))
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=r"damaged: its checksum is another"):
        read_weights(path)


def test_a_record_that_pytorch_would_not_read_is_refused(tmp_path):
    """One that is marked as a folder leaves its tensor with whatever lay in memory."""
    path = tmp_path / "weights.bin"
    write_weights(path, STATE)
    with zipfile.ZipFile(path) as records:
        name = next(record.filename for record in records.infolist() if record.filename.endswith("data/0"))
    data = path.read_bytes()
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))  # of the central directory
    assert refused_or_the_same(path, data[: entry + 38] + b"\x10" + data[entry + 39 :], "folder")


def test_files_without_checksums_are_read(tmp_path):
    path = tmp_path / "weights.bin"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_weights(path))
