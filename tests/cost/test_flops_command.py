"""``volta-switch flops``: a table, JSON, refusals."""

import json

import pytest

from synthetic_world import refusal
from volta_switch import load_config
from volta_switch.cli import _run, main
from volta_switch.cost.commands import WORK
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import activation_bytes, parameters, training_step

SMALL = ("--set", "switch.top_k=2", "--batch", "4")


def test_the_table_names_all_work_and_the_parameters(capsys):
    main(["flops", "demo/switchbert", *SMALL])
    shown = capsys.readouterr().out
    assert all(work in shown for work in WORK) and "K = 2" in shown and "M parameters" in shown


def test_json_holds_what_the_table_shows(capsys):
    main(["flops", "switchbert", *SMALL, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == pytest.approx(130.6e6, rel=0.001)
    config = load_config("switchbert", SMALL[1:2])
    expected = training_step(config, BatchCounts.from_batch(config, some_batch(4))) / 4
    assert found["flops_per_sample"]["pre-training"]["training_executed"] == pytest.approx(expected)
    assert found["top_k"] == 2 and found["batch"] == 4 and found["set"] == ["switch.top_k=2"]


def test_activations_grow_with_samples_and_leave_weights_out():
    config = load_config("demo/ctrl_uniter")
    four, eight = activation_bytes(config, 4), activation_bytes(config, 8)
    assert 1.5 < eight / four < 2.5
    wide = load_config("demo/ctrl_uniter", ["hidden_size=1024", "v_hidden_size=1024"])
    assert 0 < activation_bytes(wide, 1) < 4 * parameters(wide)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["swichbert"], "did you mean switchbert"),
        (["switchbert", "--set", "switch.topk=2"], "top_k"),
        (["switchbert", "--set", "hidden_size=100"], "width 100"),
        (["switchbert", "--batch", "0"], "--batch: expected a whole number from 1 to 1000000, found 0"),
    ],
)
def test_bad_input_gets_one_line(argv, said, capsys):
    assert said in refusal(_run, ["flops", *argv], capsys)
