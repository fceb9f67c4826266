from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError

PLAIN = {
    "list": [1, 2.5, "é", b"\xff", None, True, (1, {2}, frozenset([3]), bytearray(b"x"), 1j)],
    "ordered": OrderedDict(a=1),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.float32(1.5),
    "dtype": np.dtype("<i8"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_survive_every_protocol(protocol) -> None:
    read = safe_pickle.loads(pickle.dumps(PLAIN, protocol=protocol), "memory")
    assert read["list"] == PLAIN["list"] and read["ordered"] == PLAIN["ordered"] and read["dtype"] == PLAIN["dtype"]
    assert read["scalar"] == PLAIN["scalar"] and type(read["scalar"]) is np.float32
    for name in ("array", "fortran"):
        assert np.array_equal(read[name], PLAIN[name]) and read[name].dtype == PLAIN[name].dtype


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_arrays_are_read_under_the_names_of_both_numpy_generations(package) -> None:
    data = pickle.dumps(np.arange(3), protocol=0)
    for name in (b"numpy._core", b"numpy.core"):
        data = data.replace(b"c" + name + b".multiarray", b"c" + package + b".multiarray")
    assert package + b".multiarray" in data
    assert safe_pickle.loads(data, "memory").tolist() == [0, 1, 2]


def test_strings_of_python_2_are_read() -> None:
    assert safe_pickle.loads(b"\x80\x02U\x03abcq\x00.", "memory") == "abc"
    assert safe_pickle.loads(b"\x80\x02U\x02\xc3\xa9q\x00.", "memory") == "é"  # UTF-8
    assert safe_pickle.loads(b"\x80\x02U\x01\xe9q\x00.", "memory") == "é"  # Latin-1


class _Call:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (_Call(os.system, "touch pwned"), "posix.system"),
        (_Call(eval, "1"), "builtins.eval"),
        (_Call(getattr, "", "join"), "builtins.getattr"),
        (_Call(np.load, "x.npy"), "numpy.load"),
    ],
)
def test_anything_else_is_named_and_not_run(payload, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"cache\.pkl: the pickle asks for {named}"):
        safe_pickle.loads(pickle.dumps([payload]), "cache.pkl")
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_decoded_from_latin1_only() -> None:
    data = pickle.dumps(b"\xff", protocol=2).replace(b"latin1", b"utf-16")
    with pytest.raises(UserError, match="not a readable pickle"):
        safe_pickle.loads(data, "memory")


def test_a_damaged_pickle_names_its_file(tmp_path) -> None:
    path = tmp_path / "val_target.pkl"
    path.write_bytes(pickle.dumps(list(range(1000)))[:100])
    with pytest.raises(UserError, match=r"val_target\.pkl: not a readable pickle"):
        safe_pickle.load(path)


def test_a_missing_pickle_names_its_file(tmp_path) -> None:
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: no such file"):
        safe_pickle.load(tmp_path / "refs(unc).p")


def test_a_pickle_is_written_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "new" / "hard_negative.pkl"
    safe_pickle.dump(path, {"a": 1})
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        safe_pickle.dump(path, {"a": lambda: None})
    assert safe_pickle.load(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["hard_negative.pkl"]
