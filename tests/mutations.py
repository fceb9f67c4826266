"""Mutations of files, drawn from a seeded generator, and a folder that is as before after each; for test_mutations.py.

A mutation changes one file, or exchanges two: it takes (rng, file, the folder's other files) and returns whether it
could change anything. Files are replaced, never written into: a reader may still have the old one open.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError

Mutation = Callable[[Random, Path, Sequence[Path]], bool]


class Place:
    """A folder, and what it held."""

    def __init__(self, root: Path) -> None:
        self.root, self._kept = root, root.with_name(f"{root.name}-kept")
        shutil.copytree(root, self._kept)
        self._states = self._seen()

    def files(self) -> list[Path]:
        """All files, sorted."""
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def restore(self) -> None:
        """Makes the folder what it was."""
        now = self._seen()
        for path, state in now.items():
            if self._states.get(path) != state and (path.is_symlink() or path.exists()):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, state in self._states.items():
            if now.get(path) != state or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._kept / path.relative_to(self.root), path)
                self._states[path] = self._state(path)

    def _seen(self) -> dict[Path, Any]:
        """Every file, and every folder that holds nothing."""
        found = sorted(self.root.rglob("*"))
        return {path: self._state(path) for path in found if not path.is_dir() or not any(path.iterdir())}

    @staticmethod
    def _state(path: Path) -> Any:
        found = path.lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns


def put(path: Path, content: bytes) -> bool:
    """Replaces a file; returns whether that changed anything."""
    before = path.read_bytes()
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
    return content != before


# --- Bytes ----------------------------------------------------------------------------------------------------------


def flipped_bits(rng, path, others):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return put(path, bytes(content))


def other_byte(rng, path, others):
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return put(path, bytes(content))


def cut_short(rng, path, others):
    content = path.read_bytes()
    return put(path, content[: rng.randrange(len(content))] if content else b"")


def part_gone(rng, path, others):
    content = path.read_bytes()
    start = rng.randrange(len(content) or 1)
    return put(path, content[:start] + content[start + rng.choice((1, 8, 512)) :])


def hole(rng, path, others):
    content = path.read_bytes()
    start = rng.randrange(len(content) or 1)
    return put(path, content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :])


def grown(rng, path, others):
    return put(path, path.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def parts_exchanged(rng, path, others):
    content = path.read_bytes()
    if len(content) < 4:
        return False
    size = rng.randrange(1, 1 + len(content) // 4)
    one = rng.randrange(len(content) - 2 * size + 1)
    two = rng.randrange(one + size, len(content) - size + 1)
    first, second = content[one : one + size], content[two : two + size]
    return put(path, content[:one] + second + content[one + size : two] + first + content[two + size :])


def emptied(rng, path, others):
    return put(path, b"")


# --- Files ----------------------------------------------------------------------------------------------------------


def exchanged(rng, path, others):
    """With another file, more often one of its kind."""
    alike = [other for other in others if other.suffix == path.suffix]
    other = rng.choice(alike if alike and rng.random() < 0.7 else list(others) or [path])
    one, two = path.read_bytes(), other.read_bytes()
    put(other, one)
    return put(path, two)


def in_place_of_another(rng, path, others):
    """A copy of it under another one's name."""
    alike = [other for other in others if other.suffix == path.suffix]
    return put(rng.choice(alike or [path]), path.read_bytes())


def renamed(rng, path, others):
    path.rename(path.with_name(rng.choice((f"{path.name}.old", f"x{path.name}", path.name.upper() + "_"))))
    return True


def a_folder(rng, path, others):
    path.unlink()
    path.mkdir()
    return True


# --- Text -----------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _replaced(rng: Random, path: Path, pattern: str, other: Callable[[str], str]) -> bool:
    text = _text(path)
    found = list(re.finditer(pattern, text))
    if not found:
        return False
    match = rng.choice(found)
    return put(path, (text[: match.start()] + other(match[0]) + text[match.end() :]).encode())


def other_number(rng, path, others):
    values = ("0", "-1", "1", "7", "0.5", "1e9", "1e400", "NaN", "2", "12345678901234567890", "9" * 5000)
    near = ("{}0", "{}1", "1{}", "-{}")
    return _replaced(
        rng, path, r"-?\d+(\.\d+)?(e-?\d+)?", lambda was: rng.choice((*values, *(each.format(was) for each in near)))
    )


def other_name(rng, path, others):
    def change(was: str) -> str:
        at = rng.randrange(len(was))
        return rng.choice((was[:at] + rng.choice("abcxyz_ é") + was[at + 1 :], was + "s", was[:at] + was[at + 1 :], ""))

    return _replaced(rng, path, r"[A-Za-z_][A-Za-z_0-9]*", change)


def other_value(rng, path, others):
    values = ("null", "true", "false", "[]", "{}", '""', '"None"', "~", "[1, 2]", '{"a": 1}', "2024-13-45")
    return _replaced(rng, path, r'(?<=: )("[^"]*"|[\w.+-]+)', lambda was: rng.choice(values))


def _lines(rng: Random, path: Path, change: Callable[[list[str], int], None]) -> bool:
    lines = _text(path).split("\n")
    if len(lines) < 3:
        return False
    change(lines, rng.randrange(len(lines) - 1))
    return put(path, "\n".join(lines).encode())


def line_twice(rng, path, others):
    return _lines(rng, path, lambda lines, at: lines.insert(at, lines[at]))


def line_gone(rng, path, others):
    return _lines(rng, path, lambda lines, at: lines.pop(at) and None)


def lines_exchanged(rng, path, others):
    def change(lines: list[str], at: int) -> None:
        other = rng.randrange(len(lines) - 1)
        lines[at], lines[other] = lines[other], lines[at]

    return _lines(rng, path, change)


# --- What files hold ------------------------------------------------------------------------------------------------


def _inner_lists(value: Any) -> list[list[Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [each for item in inner for each in _inner_lists(item)]
    return [value, *found] if isinstance(value, list) and len(value) > 1 else found


def records_exchanged(rng, path, others):
    """Two entries of a list, or a record twice, in JSON or a pickle, written as its program would."""
    try:
        value = safe_pickle.load(path) if path.suffix in (".p", ".pkl") else json.loads(_text(path))
    except (UserError, ValueError):
        return False
    lists = _inner_lists(value)
    if not lists:
        return False
    chosen = rng.choice(lists)
    one, two = rng.sample(range(len(chosen)), 2)
    if rng.random() < 0.5:
        chosen[one], chosen[two] = chosen[two], chosen[one]
    else:
        chosen[one] = chosen[two]
    if path.suffix in (".p", ".pkl"):
        before = path.read_bytes()
        safe_pickle.dump(path, value)
        return path.read_bytes() != before
    return put(path, json.dumps(value).encode())


def key_twice(rng, path, others):
    """A key of a JSON object or of YAML stands there once more, with another value."""

    def twice(was: str) -> str:
        key = was.partition(":")[0]
        return f"{key}: {rng.choice(('3', 'null', 'true'))}, {was}" if was.startswith('"') else f"{was}\n{key}: 3\n"

    return _replaced(rng, path, r'"[\w ]+":|(?m:^ *[\w]+:.*$)', twice)


def other_tensor(rng, path, others):
    """A number, a name or a place of tensors in a PyTorch file, saved as torch saves it."""
    if path.suffix != ".bin":
        return False
    state = torch.load(path, weights_only=True)
    name = rng.choice([name for name, tensor in state.items() if tensor.is_floating_point()])
    kind = rng.choice(("number", "nan", "name", "places", "gone", "shape"))
    if kind in ("number", "nan"):
        changed = state[name].clone()
        changed.view(-1)[rng.randrange(changed.numel())] += float("nan") if kind == "nan" else 1.0
        state[name] = changed
    elif kind == "places":
        alike = [other for other in state if state[other].shape == state[name].shape]
        other = rng.choice(alike)
        state[name], state[other] = state[other], state[name]
    elif kind == "shape":
        state[name] = state[name].reshape(1, *state[name].shape)
    else:
        tensor = state.pop(name)
        if kind == "name":
            state[f"{name}s"] = tensor
    new = path.with_name(f"{path.name}.new")
    torch.save(state, new)
    changed_bytes = new.read_bytes()
    new.unlink()
    return put(path, changed_bytes)


BYTES: tuple[Mutation, ...] = (
    flipped_bits, other_byte, cut_short, part_gone, hole, grown, parts_exchanged, emptied,
)  # fmt: skip
FILES: tuple[Mutation, ...] = (exchanged, in_place_of_another, renamed, a_folder)
TEXT: tuple[Mutation, ...] = (
    other_number, other_number, other_name, other_name, other_value, line_twice, line_gone, lines_exchanged, key_twice,
)  # fmt: skip
HELD: tuple[Mutation, ...] = (records_exchanged, other_tensor)
TEXTS = (".json", ".jsonl", ".yml", ".yaml", ".txt", ".sums", ".csv")


def mutate(rng: Random, path: Path, others: Sequence[Path]) -> str:
    """Mutates a file in a way that its kind allows; returns its name, or "" where nothing changed."""
    kinds: list[Sequence[Mutation]] = [BYTES, FILES]
    if path.suffix in TEXTS:
        kinds += [TEXT, TEXT, TEXT]
    if path.suffix in (".json", ".p", ".pkl", ".bin"):
        kinds += [HELD]
    chosen = rng.choice(rng.choice(kinds))
    return chosen.__name__ if chosen(rng, path, others) else ""
