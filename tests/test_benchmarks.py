"""Every benchmark runs at a tiny size, through its own command line."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from volta_switch import load_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
needs_volta = pytest.mark.skipif(not os.environ.get("VOLTA_HOME"), reason="VOLTA_HOME names no VOLTA checkout")


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs a benchmark as its command line would: printed("attention", "--batch", "2") -> what it printed."""

    def run(name, *flags):
        script = BENCHMARKS / f"{name}.py"
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", [str(script), *flags])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def rows_of(printed):
    """The tables' rows, the names of their sides first: name -> cells."""
    lines = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.fixture
def narrow(tmp_path):
    """Writes a shipped configuration with small sizes: narrow("switchbert") -> its path."""

    def write(name):
        values = json.loads((BENCHMARKS.parent / "config" / f"{name}.json").read_text())
        sizes = {"hidden_size": 48, "intermediate_size": 96, "pooler_size": 32}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(values | sizes | {f"v_{key}": size for key, size in sizes.items()}))
        return str(path)

    return write


def test_a_training_step_beside_others(printed, narrow):
    switched, uniter = narrow("switchbert"), narrow("ctrl_uniter_base")
    flags = ("--against", "naive", "--layers", "2", "--batch", "2", "--rounds", "1", "--steps", "2")
    out = printed("train_step", "--model", switched, uniter, *flags)
    rows = rows_of(out)
    assert list(rows)[2:] == [switched, uniter, f"{switched}, naive"]
    assert rows["step of"][-3:] == ["GFLOP", "TFLOP/s", "% of ceiling"]
    for name in list(rows)[2:]:
        assert all(float(cell) > 0 for cell in rows[name][-3:])
    agreements = re.findall(r"([\d.]+) GFLOP by arithmetic, ([\d.]+) counted", out)
    assert len(agreements) == 2
    for expected, count in agreements:
        assert float(count) == pytest.approx(float(expected), rel=0.01)


def test_a_training_step_in_bfloat16_with_its_memory(printed, narrow):
    model = narrow("ctrl_vilbert_base")
    out = printed("train_step", "--model", model, "--batch", "2", "--rounds", "1", "--dtype", "bfloat16", "--memory")
    rows = rows_of(out)
    assert "ceiling in bfloat16" in out and rows["step of"][-1] == "peak GiB" and float(rows[model][-1]) > 0


@needs_volta
def test_training_steps_beside_voltas(printed, narrow):
    model = narrow("ctrl_lxmert")
    flags = ("--against", "volta", "--batch", "2", "--rounds", "1", "--dtype", "bfloat16", "--volta-dtype", "float32")
    out = printed("train_step", "--model", model, *flags)
    assert list(rows_of(out))[2:] == [model, f"VOLTA {model}"]
    assert "ceiling in float32" in out and "ceiling in bfloat16" in out


@needs_volta
def test_switchbert_stands_beside_voltas_uniter(printed):
    flags = ("--against", "volta", "uniter", "--layers", "1", "--batch", "2", "--rounds", "1")
    out = printed("train_step", "--model", "switchbert", *flags)
    assert list(rows_of(out))[2:] == ["switchbert", "ctrl_uniter_base", "VOLTA ctrl_uniter_base"]


def test_no_round_is_begun_when_time_is_up_and_every_figure_was_printed_before(printed, narrow):
    model = narrow("ctrl_uniter_base")
    out = printed("train_step", "--model", model, "--layers", "1", "--batch", "2", "--rounds", "3", "--until", "1")
    assert "1 of 3 rounds: time is up" in out and list(rows_of(out))[2:] == [model]
    assert out.index("s a step, round 1") < out.index("time is up") and "round 2" not in out


def test_naive_modes_of_a_static_model_are_refused_in_one_line(printed, capsys):
    with pytest.raises(SystemExit) as end:
        printed("train_step", "--model", "ctrl_lxmert", "--against", "naive")
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: --against naive: ctrl_lxmert") and said.count("\n") == 1


def test_the_attention_core(printed):
    flags = ("--text", "5", "--regions", "6", "--batch", "2", "--rounds", "1", "--heads", "2")
    rows = rows_of(printed("attention", *flags))
    assert list(rows)[2:] == ["joint", "merged", "naive"]
    executed = rows["step of"].index("GFLOP executed")
    assert float(rows["merged"][executed]) <= 1.1 * float(rows["joint"][executed])


def test_retrieval(printed, narrow):
    model = narrow("ctrl_uniter_base")
    flags = (
        "--model",
        model,
        "--against",
        "expanded",
        "--layers",
        "1",
        "--captions",
        "4",
        "--images",
        "4",
        "--batch",
        "4",
    )
    rows = rows_of(printed("retrieval", *flags, "--rounds", "1"))
    assert list(rows)[2:] == [model, f"{model}, expanded"]


@pytest.mark.long
def test_the_loader(monkeypatch, printed):
    monkeypatch.delenv("VOLTA_HOME", raising=False)
    out = printed("loader", "--records", "64", "--batch", "4", "--workers", "1", "--rounds", "1")
    assert list(rows_of(out))[2:] == [
        "ours, VOLTA's format",
        "ours, compact store",
        "ours, shards in a folder",
        "the same, float32 on the CPU",
    ]


def test_waiting_for_data(printed, narrow):
    flags = ["--model", narrow("switchbert"), "--records", "8"]
    flags += ["--layers", "1", "--batch", "2", "--rounds", "1", "--steps", "1"]
    out = printed("data_wait", *flags)
    assert re.search(r"waiting for data: -?[\d.]+ % of a step", out)
    assert list(rows_of(out))[2:] == ["from the loader", "at hand"]


@pytest.mark.long
def test_scaling_from_one_process_to_two(printed, narrow):
    model = narrow("switchbert")
    out = printed("scaling", "--models", model, "--layers", "1", "--batch", "4", "--rounds", "1", "--parts", "2")
    rows = rows_of(out)
    whole, divided = ["2, DDP", "2, FSDP2"], ["2, DDP, 2 parts", "2, FSDP2, 2 parts"]
    assert list(rows)[2:] == ["1 process", "2, no exchange", *whole, *divided, "all-reduce", "100 agreements"]
    counted, computed = (rows["step of"].index(head) for head in ("MB counted", "computed"))
    for cells in (rows[name] for name in [*whole, *divided, "all-reduce"]):
        assert float(cells[counted]) > 0.95 * float(cells[computed]) > 1  # other programs' bytes only add to it
    assert float(rows["2, FSDP2, 2 parts"][computed]) > float(rows["2, FSDP2"][computed])
    assert "communication and waiting" in out and "an agreement takes" in out


def test_what_a_checkpoint_takes(printed, narrow):
    model = narrow("ctrl_uniter_base")
    rows = rows_of(printed("scaling", "--checkpoint", "--models", model, "--layers", "1", "--rounds", "1"))
    assert float(rows[model][0]) == pytest.approx(3 * 4 * parameters_of(model, layers=1) / 1e9, rel=0.1)


def parameters_of(model, layers):
    from scaling_on_paper import Size
    from train_step import shortened

    return Size.of(load_config(shortened(model, layers))).parameters


def test_the_tables_of_the_page_on_scaling_are_those_that_are_computed(printed):
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    tables = printed("scaling", "--arithmetic").strip().split("\n\n")
    assert len(tables) == 6 and [table for table in tables if table not in page] == []


def test_an_assumption_replaces_a_number(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from scaling import Assumptions, assumed

    assert assumed(["utilisation=0.2", "products=5e14"]).flops == 1e14 and assumed([]) == Assumptions()


def test_the_operators_that_the_page_on_scaling_counts_with(monkeypatch, narrow):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from scaling_on_paper import Assumptions, operators_of_a_step

    assert operators_of_a_step(load_config(narrow("switchbert"))) == pytest.approx(Assumptions().operators, rel=0.1)
    assert operators_of_a_step(load_config(narrow("ctrl_uniter_base"))) == pytest.approx(1500, rel=0.1)


@pytest.mark.parametrize("pair", ["utilization=0.3", "utilisation=much"])
def test_an_assumption_that_cannot_be_made_is_refused_in_one_line(printed, capsys, pair):
    with pytest.raises(SystemExit) as end:
        printed("scaling", "--arithmetic", "--assume", pair)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(f"error: --assume {pair}: expected") and said.count("\n") == 1
