"""The volta-switch command: a world, a study's table, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from synthetic_world import refusal
from volta_switch import __version__, cli

ROOT = Path(__file__).parents[1]
WORLD = ("--images", "20", "--eval-images", "10", "--no-render")


def exits(argv, capsys):
    """Exit code, stdout and stderr of a command that argparse ends."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    return (caught.value.code, *capsys.readouterr())


def test_version(capsys):
    assert exits(["--version"], capsys) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "world",
        "study",
        "study run",
        "compare",
        "data",
        "data check",
        "data convert",
        "data repack",
        "data vqa-targets",
    ],
)
def test_help_is_given_for_every_command(command, capsys):
    code, out, err = exits([*command.split(), "--help"], capsys)
    assert code == 0 and out.startswith("usage: volta-switch") and not err


def test_commands_that_pages_name_are_there(capsys):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "volta_switch").rglob("*.j2")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = {found for found in re.findall(r"volta-switch (study [a-z]+|data [a-z-]+|[a-z]+)", text)}
    assert {"study run", "study table", "data repack", "routes", "flops"} <= named
    for command in sorted(named):
        assert exits([*command.split(), "--help"], capsys)[0] == 0, command


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "words",
        "data",
        "data check",
        "data convert a b --to zip",
        "data repack a",
        "study",
        "study walk",
        "study run",
        "world",
        "world o --imags 3",
    ],
)
def test_a_bad_command_exits_with_2_and_one_line(argv, capsys):
    code, out, err = exits(argv.split(), capsys)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    command = " ".join(
        word for word in argv.split()[:2] if word in ("data", "check", "repack", "study", "run", "world")
    )
    assert f"volta-switch {command}".strip() in err and err.endswith(" --help lists all flags\n")


def test_world_writes_a_world_once(tmp_path, capsys):
    out = tmp_path / "world"
    cli.main(["world", str(out), "--seed", "5", *WORLD])
    said = capsys.readouterr().out
    summary = json.loads((out / "world.json").read_text())
    images = sum(splits["train"] for splits in summary["images"].values())
    assert images > 3 * 20 and said.startswith(f"{out}: {images} training images, ") and "without looking" in said
    assert summary["spec"]["seed"] == 5 and summary["spec"]["images"] == 20 and not summary["spec"]["render"]
    assert (out / "tasks.yml").is_file() and (out / "bert-world" / "vocab.txt").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    cli.main(["world", str(out), "--seed", "5", *WORLD])
    assert "already there; nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_world_does_not_replace_another_world_unasked(world, tmp_path, capsys):
    out = world.copy(tmp_path / "world").path
    message = refusal(cli._run, ["world", out, "--seed", "1", *WORLD], capsys)
    assert "holds another world (seed differ); add --overwrite" in message


def test_world_refuses_a_parameter_out_of_range(tmp_path, capsys):
    message = refusal(cli._run, ["world", tmp_path / "world", "--images", "3"], capsys)
    assert "--images: expected a whole number from 20 to 10000000, found 3" in message and not list(tmp_path.iterdir())


def test_main_exits_with_2_for_bad_input(tmp_path, capsys):
    plan = tmp_path / "none.yaml"
    found = exits(["study", "table", str(plan)], capsys)
    assert found == (2, "", f"error: {plan}: no such study; shipped ones are in studies/\n")


@pytest.fixture
def plan(world, tmp_path):
    """A plan over a world that is there, with nothing run."""
    path = tmp_path / "mine.yaml"
    plan = {"name": "mine", "world": {}, "models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}}
    path.write_text(yaml.safe_dump(plan))
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    shutil.copytree(world.path, folder / "world")
    return path


def test_a_table_needs_runs(plan, capsys, monkeypatch):
    monkeypatch.chdir(plan.parent)  # the folder is runs/<name> unless told otherwise
    message = refusal(cli._run, ["study", "table", plan], capsys)
    assert "runs/mine/ctrl_uniter/seed0/refcoco+_ctrl_uniter/run.json: missing; run the study first" in message


@pytest.mark.parametrize("command", ["table", "power"])
def test_a_study_that_was_not_begun_there_is_told_so(plan, tmp_path, capsys, command):
    message = refusal(cli._run, ["study", command, plan, "--out", str(tmp_path / "none")], capsys)
    assert f"{tmp_path / 'none'}: missing; run the study there first" in message
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("--effect", "0"), ("--effect", "nan"), ("--target", "1"), ("--target", "-1")]
)
def test_power_refuses_what_is_no_effect_and_no_probability(plan, capsys, flag, value):
    assert f"{flag}: expected" in refusal(cli._run, ["study", "power", plan, flag, value], capsys)


def test_table_prints_and_writes_the_table_and_the_report(plan, capsys):
    folder = plan.parent / "out"
    run = folder / "ctrl_uniter" / "seed0" / "refcoco+_ctrl_uniter"
    shutil.copytree(plan.parent / "runs" / "mine", folder)
    run.mkdir(parents=True)
    record = {"entry_point": "train_task", "hyperparameters": {}, "settings": {}, "data": {}, "precision": "float32"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "metrics.json").write_text(json.dumps({"last_validation": {"accuracy": 50.0}}))
    (run / "val_metrics.json").write_text(json.dumps({"accuracy": 62.5}))
    line = {"kind": "valid", "step": 1, "epoch": 0, "samples": 100, "score": 50.0}
    (run / "log.jsonl").write_text(json.dumps(line) + "\n")
    cli.main(["study", "table", str(plan), "--out", str(folder)])
    said = capsys.readouterr().out
    row = next(text for text in said.splitlines() if "ctrl_uniter" in text)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["ctrl_uniter", "0.36 M", "62.5"]
    assert (folder / "table.md").read_text() in said
    for name in ("table.md", "table.json", "report.html"):
        assert (folder / name).is_file() and (str(folder / name) in said or name == "table.json")


def test_run_refuses_no_jobs(plan, capsys):
    assert "--jobs: expected a whole number from 1 to 1024, found 0" in refusal(
        cli._run, ["study", "run", plan, "--jobs", "0"], capsys
    )
