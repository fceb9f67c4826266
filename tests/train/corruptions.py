"""Corruptions of a checkpoint, drawn from a seeded generator; used by test_corrupted_checkpoints.py."""

import io
import json
import os
import pickle
import shutil

import torch

from volta_switch.checksums import json_digest
from volta_switch.files import measured
from volta_switch.train.manifest import MANIFEST

TENSORS = ("model.safetensors", "training.safetensors")
FILES = (*TENSORS, MANIFEST)


class Malicious:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def malicious_pickle(rng, mark):
    """A file that makes the folder ``mark`` when code in it is run: a bare pickle, or one of PyTorch's two formats."""
    payload = {"bert.attention_self.weight": torch.zeros(2), "attack": Malicious(mark)}
    form = rng.choice(("bare", "zip", "legacy"))
    if form == "bare":
        return pickle.dumps(payload["attack"], protocol=rng.randrange(6))
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


def any_json(rng, depth=3):
    """A JSON value of any shape."""
    leaf = (None, True, 0, -1, 2**80, 0.5, "", "x", "volta_switch checkpoint 2", [], {})
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(leaf)
    inner = [any_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = rng.sample(("format", "version", "progress", "identity", "plain", "files", "sha256", "not_finite", "x"), 4)
    return inner if rng.random() < 0.4 else dict(zip(keys, inner, strict=False))


def forged(folder, change):
    """Changes a manifest's content and sets its checksum right, as someone would who means harm."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256", None)
    path.write_text(json.dumps({**content, "sha256": json_digest(content)}))


# --- Accidents: (rng, folder, its neighbour of another step, mark) ------------------------------------------------


def flipped_bits(rng, folder, other, mark):
    path = folder / rng.choice(FILES)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncated(rng, folder, other, mark):
    path = folder / rng.choice(FILES)
    os.truncate(path, rng.randrange(path.stat().st_size))


def hole(rng, folder, other, mark):
    """Zeros where a block never reached the disk."""
    path = folder / rng.choice(FILES)
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :])


def grown(rng, folder, other, mark):
    with (folder / rng.choice(FILES)).open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 100)))


def emptied(rng, folder, other, mark):
    (folder / rng.choice(FILES)).write_bytes(b"")


def missing(rng, folder, other, mark):
    for name in rng.sample(FILES, rng.randrange(1, 4)):
        (folder / name).unlink()


def random_bytes(rng, folder, other, mark):
    path = folder / rng.choice(FILES)
    path.write_bytes(rng.randbytes(rng.choice((7, path.stat().st_size))))


def swapped(rng, folder, other, mark):
    """Files exchanged with another checkpoint's, all three included."""
    for name in rng.sample(FILES, rng.randrange(1, 4)):
        (folder / name).rename(folder / "between")
        (other / name).rename(folder / name)
        (folder / "between").rename(other / name)


def exchanged_inside(rng, folder, other, mark):
    first, second = rng.sample(FILES, 2)
    (folder / first).rename(folder / "between")
    (folder / second).rename(folder / first)
    (folder / "between").rename(folder / second)


def further_file(rng, folder, other, mark):
    (folder / rng.choice(("notes.txt", ".hidden", "pytorch_model.bin"))).write_bytes(malicious_pickle(rng, mark))


def no_file(rng, folder, other, mark):
    path = folder / rng.choice(FILES)
    path.unlink()
    kind = rng.choice(("folder", "pipe", "device", "loop", "dangling"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nothing"}[kind])


def linked(rng, folder, other, mark):
    path = folder / rng.choice(FILES)
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


def other_json(rng, folder, other, mark):
    (folder / MANIFEST).write_text(json.dumps(any_json(rng)))


def changed_json(rng, folder, other, mark):
    """A value of the manifest taken away or replaced, its checksum left as it is."""
    content = json.loads((folder / MANIFEST).read_text())
    inner = content
    while True:
        key = rng.choice(list(inner))
        if not isinstance(inner[key], dict) or not inner[key] or rng.random() < 0.3:
            break
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[key]
    else:
        inner[key] = any_json(rng)
    (folder / MANIFEST).write_text(json.dumps(content))


# --- Attacks: every checksum is right -----------------------------------------------------------------------------


def pickled(rng, folder, other, mark):
    name = rng.choice(FILES)
    (folder / name).write_bytes(malicious_pickle(rng, mark))
    if name in TENSORS and rng.random() < 0.7:
        forged(folder, lambda content: content["files"].update({name: measured(folder / name)}))


def whole_is_a_pickle(rng, folder, other, mark):
    shutil.rmtree(folder)
    folder.write_bytes(malicious_pickle(rng, mark))


def forged_shape(rng, folder, other, mark):
    """A manifest with a value of another type."""

    def change(content):
        part = rng.choice(
            ("progress", "identity", "plain", "files", "format", "inside progress", "inside files", "key")
        )
        if part == "inside progress":
            name = rng.choice([name for name in content["progress"] if name != "best_score"])
            content["progress"][name] = rng.choice((None, [], {}, "1", -5, 1.5, True, {"not_finite": "nan"}))
        elif part == "inside files":
            name, wrong = rng.choice(TENSORS), (None, [], {}, "x", {"bytes": "1", "sha256": 2}, {"bytes": 3})
            content["files"][name] = rng.choice(wrong)
        elif part == "key":
            del content[rng.choice(("progress", "identity", "plain", "files", "format", "version"))]
        else:
            content[part] = rng.choice((None, [], "x", 3, [{}], {"not_finite": "inf"}, {"not_finite": 2}))

    forged(folder, change)


def bare_constant(rng, folder, other, mark):
    """Numbers that are not JSON, which Python's own module would write and read."""
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("-3.5", rng.choice(("NaN", "Infinity", "-Infinity", "1e999"))))


def nested(rng, folder, other, mark):
    deep = rng.choice((500, 5_000, 200_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    (folder / MANIFEST).write_text(opening * deep + "1" + closing * deep)


def forged_tensors(rng, folder, other, mark):
    """A safetensors file that is none, though the manifest has its checksum."""
    path = folder / rng.choice(TENSORS)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    kind = rng.choice(("length", "nested", "offsets", "dtype", "shape", "shared", "cut", "overlap"))
    text = None
    if kind == "length":
        path.write_bytes(
            rng.choice((2**64 - 1, 2**63, 2**40, 2**27, len(content), 0)).to_bytes(8, "little") + content[8:]
        )
    elif kind == "nested":
        text = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    elif kind == "offsets":
        header[rng.choice(names)]["data_offsets"] = rng.choice(([0, 2**62], [8, 0], [-1, 4], "x", [0]))
    elif kind == "overlap":
        header[names[0]]["data_offsets"], header[names[0]]["shape"] = header[names[1]]["data_offsets"], [1]
    elif kind == "dtype":
        header[rng.choice(names)]["dtype"] = rng.choice(("F128", "object", "", 5))
    elif kind == "shape":
        header[rng.choice(names)]["shape"] = rng.choice(([2**62, 2**62], [-1], "x", [1.5], [10**30], [7, 7, 7]))
    elif kind == "shared":
        wrong = ("[]", '{"a": "nothing"}', '{"a": 1}', "not JSON", f'{{"{names[0]}": "{names[1]}"}}', "[" * 100_000)
        header["__metadata__"]["shared"] = rng.choice(wrong)
    else:
        data = data[: rng.randrange(len(data))]
    if kind != "length":
        text = text or json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    forged(folder, lambda content: content["files"].update({path.name: measured(path)}))


ACCIDENTS = (
    flipped_bits, truncated, hole, grown, emptied, missing, random_bytes, swapped, exchanged_inside, further_file,
    no_file, linked, other_json, changed_json,
)  # fmt: skip
ATTACKS = (pickled, whole_is_a_pickle, forged_shape, bare_constant, nested, forged_tensors)
EVERY = (*(flipped_bits,) * 6, *(truncated,) * 4, *ACCIDENTS, *ATTACKS, pickled, pickled)
