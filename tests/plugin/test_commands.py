"""``volta-switch volta``: what it says to mistakes, and that flags reach the script; with a stand-in for VOLTA."""

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest

from synthetic_world import refusal
from volta_switch import UserError, load_config
from volta_switch.cli import _run
from volta_switch.plugin import encoder
from volta_switch.plugin.checkout import find_files
from volta_switch.plugin.commands import main
from volta_switch.plugin.repairs import REPAIRS, choose

TASKS = "TASK8: {name: RetrievalFlickr30k}\nTASK10: {name: refcoco+}\n"


@pytest.fixture
def home(tmp_path, monkeypatch, no_volta):
    """A folder that looks like a checkout, and another one to work in."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # a script that is refused late has changed it
    checkout, work = tmp_path / "checkout", tmp_path / "work"
    files = {
        "volta/encoders.py": "", "train_concap.py": "", "eval_task.py": "", "config/theirs.json": "{}",
        "config_tasks/tasks.yml": TASKS,
    }  # fmt: skip
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(textwrap.dedent(text))
    work.mkdir()
    monkeypatch.chdir(work)
    return checkout


# --- Mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which script"),
        (["train_concap.py"], "give --home DIR or set VOLTA_HOME .*git clone https://github.com/e-bug/volta"),
        (["--home", "/nowhere", "train_concap.py"], "--home /nowhere: holds no volta/encoders.py"),
        (["--fix", "negative", "train_task.py"], "--fix negative: no such repair; did you mean negatives"),
        (["--without", "xyz", "train_task.py"], "--without xyz: no such repair; --list-repairs prints them all"),
        (["--without", "negatives", "train_task.py"], "negatives: .* applied only with --fix"),
        (["--fix", "cpu", "train_task.py"], "cpu: .* applied unless --without"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_command_is_told_in_one_line(argv, message, capsys):
    assert re.search(message, refusal(main, argv, capsys))
    assert re.search(message, refusal(_run, ["volta", *argv], capsys))


def test_a_script_that_is_not_there_is_told_with_those_that_are(home, capsys):
    message = refusal(main, ["--home", home, "train_concept.py"], capsys)
    assert "train_concept.py: no such script in the checkout; it has eval_task.py, train_concap.py" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config_file", "switchbrt"], "did you mean switchbert"),
        (["--config_file=nowhere/switchbert.json"], "no such file or name"),
        (["--tasks_config_file", "task.yml"], "--tasks_config_file task.yml: no such file, here or in .*checkout"),
        (["--task", "9", "--tasks_config_file", "config_tasks/tasks.yml"], "--task 9: not in .* has the tasks 8, 10"),
    ],
)
def test_a_file_or_task_that_is_nowhere_is_told_before_anything_is_imported(flags, message, home, capsys):
    assert re.search(message, refusal(main, ["--home", home, "train_concap.py", *flags], capsys))
    assert not encoder._patches and "volta" not in sys.modules


@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("import surely_not_installed", "surely_not_installed"),
        ("def main():\n    from surely_not_installed.part import name", "surely_not_installed"),
    ],
)
def test_an_import_of_the_script_itself_that_fails_is_told_in_one_line(home, capsys, script, module, monkeypatch):
    monkeypatch.setattr("volta_switch.plugin.script.REPAIRS", [])  # they need VOLTA's own modules
    monkeypatch.setattr(sys, "argv", sys.argv)  # these three are put back after the test
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (home / "volta" / "encoders.py").write_text("BertModel = BertForVLPreTraining = BertForVLTasks = object")
    (home / "volta" / "train_utils.py").write_text("class tbLogger: pass")
    (home / "eval_task.py").write_text(script)
    message = refusal(main, ["--home", home, "--no-plugin", "eval_task.py"], capsys)
    assert message.startswith(f"eval_task.py: VOLTA cannot be imported (No module named '{module}'")
    assert "the package of surely_not_installed is missing" in message and "volta-switch[" not in message


# --- Files are found ----------------------------------------------------------------------------------------------


def test_files_are_found_here_then_in_the_checkout_then_among_the_shipped_ones(home, tmp_path):
    flags = ["--config_file", "config/theirs.json", "--tasks_config_file=config_tasks/tasks.yml", "--seed", "3"]
    found = find_files(home, flags)
    tasks = f"--tasks_config_file={home / 'config_tasks/tasks.yml'}"
    assert found == ["--config_file", str(home / "config/theirs.json"), tasks, "--seed", "3"]
    (tmp_path / "work" / "config").mkdir()
    (tmp_path / "work" / "config" / "theirs.json").write_text("{}")
    assert find_files(home, flags[:2]) == flags[:2]
    for spelling in ("switchbert.json", "switchbert"):
        (shipped,) = find_files(home, [f"--config={spelling}"])
        assert shipped.endswith("/config/switchbert.json") and str(home) not in shipped


def test_a_models_folder_is_weights_and_configuration(home, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(load_config("demo/ctrl_uniter").to_dict()))
    best = folder / "pytorch_model_best.bin"
    best.write_bytes(b"")
    own = ["--config_file", str(folder / "config.json")]
    assert find_files(home, ["--from_pretrained", str(folder), "--seed", "3"]) == [
        "--from_pretrained", str(best), "--seed", "3", *own
    ]  # fmt: skip
    assert find_files(home, [f"--from_pretrained={folder}"]) == [f"--from_pretrained={best}", *own]
    named = ["--from_pretrained", str(folder), "--config_file", "config/theirs.json"]
    assert find_files(home, named)[1:] == [str(best), "--config_file", str(home / "config/theirs.json")]
    assert find_files(home, ["--from_pretrained", str(best)]) == ["--from_pretrained", str(best)]
    best.rename(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"pytorch_model_best.bin: no such weight file; VOLTA reads no other of a"):
        find_files(home, named)


def test_an_address_is_weights_and_configuration_of_one_commit(home, hub):
    values = json.dumps(load_config("demo/ctrl_uniter").to_dict()).encode()
    commit = hub.create("me/model", {"config.json": values, "vocab.txt": b"[PAD]\n", "pytorch_model_best.bin": b"w"})
    code = "from pathlib import Path\nfrom volta_switch.plugin.checkout import find_files\n"
    code += "print(*find_files(Path(sys.argv[1]), sys.argv[2:]))"
    found = hub.python(code, home, "--from_pretrained", "hf://me/model").split()
    assert found[::2] == ["--from_pretrained", "--config_file"]
    assert found[1].endswith(f"{commit}/pytorch_model_best.bin")
    assert Path(found[3]).read_bytes() == values and f"/{commit}/" in found[3]


# --- The catalogue ------------------------------------------------------------------------------------------------


def test_every_repair_is_listed_with_its_place_in_volta(capsys):
    main(["--list-repairs"])
    by_default, on_request = capsys.readouterr().out.split("Mended with --fix NAME")
    assert len({repair.name for repair in REPAIRS}) == len(REPAIRS) > 40
    for repair in REPAIRS:
        line = next(line for line in (on_request if repair.fixes_numbers else by_default).splitlines()
                    if line.startswith(f"| {repair.name} "))  # fmt: skip
        assert repair.where in line and repair.problem in line
        assert re.fullmatch(r"[\w/]+\.py:\d+(, [\w/]+\.py:\d+)*", repair.where)
        assert repair.stage in ("packages", "volta", "script") and len(repair.problem) > 20


def test_what_stops_is_mended_unless_left_out_and_numbers_only_on_request():
    default = choose()
    assert not any(repair.fixes_numbers for repair in default)
    assert {repair.name for repair in default} - {repair.name for repair in choose(["cpu", "serializer"])} == {
        "cpu", "serializer"
    }  # fmt: skip
    assert {repair.name for repair in choose((), ["seeds"])} - {repair.name for repair in default} == {"seeds"}


def test_the_documentation_names_every_fix_of_numbers():
    text = (Path(__file__).parents[2] / "docs" / "volta-differences.md").read_text().split("## Inside VOLTA")[1]
    named = set(re.findall(r"`([a-z][a-z-]+)`", text)) - {"seed"}
    assert named == {repair.name for repair in REPAIRS if repair.fixes_numbers}
