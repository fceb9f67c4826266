"""Gradients of several processes are averaged; what no process reached has none."""

import json

import pytest
import torch

from train.averaged_steps import RANKS, run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("averaged")
    torch.multiprocessing.spawn(run, (folder,), RANKS)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


def test_all_processes_have_the_same_gradients(found):
    assert found[0] == found[1]


def test_what_one_process_reached_is_averaged_and_what_none_reached_has_no_gradient(found):
    assert found[0]["each reaches its own"] == {"a": [1.0, 1.0], "b": [2.0, 2.0], "c": None}


def test_other_losses_reach_other_parameters(found):
    assert found[0]["all reach all"] == {"a": [2.0, 2.0], "b": [2.0, 2.0], "c": [2.0, 2.0]}


def test_what_was_learnt_of_a_set_of_losses_holds_in_its_next_step(found):
    assert found[0]["again"] == found[0]["each reaches its own"]


def test_parts_add_up_whichever_reached_a_parameter(found):
    step = "the last part reaches nothing that others did"
    assert found[0][step] == {"a": [3.0, 3.0], "b": [1.0, 1.0], "c": None}


def test_a_set_of_losses_that_reaches_other_parameters_than_before_stops_the_run(found):
    assert "reach other parameters than" in found[0]["said"]
