"""What two runs of one command are compared by."""

import json

import pytest
import torch

from synthetic_world import json_of
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.log_file import lines_of
from volta_switch.train.run_folder import CHECKPOINTS


def newest(run):
    """What the newest checkpoint of a run holds."""
    store = CheckpointStore(run / CHECKPOINTS)
    return store.load(store.newest())


def same_end(left, right):
    """Whether two runs ended with equal weights, optimiser states, random states, progress and metrics."""
    of_left, of_right = newest(left), newest(right)
    plain = [{**saved.plain, "log_lines": 0} for saved in (of_left, of_right)]  # a start is a line, too
    assert of_left.progress == of_right.progress and plain[0] == plain[1]
    assert json_of(left / "metrics.json") == json_of(right / "metrics.json")
    for one, other in ((of_left.model, of_right.model), (of_left.training, of_right.training)):
        assert one.keys() == other.keys() and any(name.startswith("rng/") for name in of_left.training)
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    best = [torch.load(run / "pytorch_model_best.bin", weights_only=True) for run in (left, right)]
    assert all(torch.equal(tensor, best[1][name]) for name, tensor in best[0].items())
    return True


def logged(run):
    """The lines of a run's log that stand, without its starts and without what no two runs have in common."""
    differing = ("time", "samples_per_second", "data_wait", "memory_gib")
    lines = (line for line in lines_of(run / "log.jsonl") if line["kind"] != "start")
    return [{name: value for name, value in line.items() if name not in differing} for line in lines]


def close_numbers(found, expected, tolerance):
    """Whether nested sections and lists have the same keys and, to the tolerance, the same numbers."""
    if isinstance(expected, dict | list):
        assert len(found) == len(expected) and (isinstance(expected, list) or found.keys() == expected.keys())
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            close_numbers(found[key], expected[key], tolerance)
    else:
        assert found == (expected if expected is None else pytest.approx(expected, abs=tolerance, rel=tolerance))
    return True


def samples_by_step(run):
    """(epoch, step) -> the samples that all processes had in it."""
    steps = {}
    for path in sorted(run.glob("ids-*.jsonl")):
        for line in (line for line in lines_of(path) if "ids" in line):
            steps.setdefault((line["epoch"], line["step"]), []).extend(name for part in line["ids"] for name in part)
    return steps


def samples_in_order(run, process=0):
    """The lines of one process's ids."""
    return [json.dumps(line) for line in lines_of(run / f"ids-{process}.jsonl") if "ids" in line]
