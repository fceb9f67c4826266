"""VOLTA's pickles are read without running code."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from volta_switch import UserError
from volta_switch.plugin.replacements import SAFE_PICKLE

ENTRY = collections.OrderedDict(
    question_id=3,
    scores=np.float32(0.5),
    boxes=np.arange(8, dtype=np.float32).reshape(2, 4),
    token=torch.arange(6).view(2, 3).t(),
    answer={"labels": torch.tensor([1, 2]), "scores": None, "names": {"a", "b"}},
)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_arrays_and_tensors_are_read_as_they_were(protocol, tmp_path):
    path = tmp_path / "cache.pkl"
    path.write_bytes(pickle.dumps([ENTRY], protocol=protocol))
    with path.open("rb") as file:
        (found,) = SAFE_PICKLE.load(file)
    assert type(found) is collections.OrderedDict and found["question_id"] == 3 and found["scores"] == 0.5
    assert np.array_equal(found["boxes"], ENTRY["boxes"]) and torch.equal(found["token"], ENTRY["token"])
    assert torch.equal(found["answer"]["labels"], torch.tensor([1, 2])) and found["answer"]["names"] == {"a", "b"}
    assert SAFE_PICKLE.loads(SAFE_PICKLE.dumps({"keys": [b"1"]})) == {"keys": [b"1"]}


class Harmful:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.system, "touch run"), (eval, "1"), (getattr, "a", "upper")])
def test_a_pickle_that_runs_code_is_refused_by_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cache.pkl"
    path.write_bytes(pickle.dumps(Harmful(*call)))
    with path.open("rb") as file, pytest.raises(UserError, match=r"cache\.pkl: the pickle asks for .*not run"):
        SAFE_PICKLE.load(file)
    assert not (tmp_path / "run").exists()


def test_a_tensor_whose_storage_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Harmful(os.system, "touch run"), tmp_path / "storage")
    hidden = Harmful(torch.storage._load_from_bytes, (tmp_path / "storage").read_bytes())
    with pytest.raises(UserError, match="nothing was run"):
        SAFE_PICKLE.loads(pickle.dumps(hidden))
    assert not (tmp_path / "run").exists()
