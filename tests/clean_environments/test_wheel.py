"""A wheel of this tree in a fresh environment, without the extras: what is shipped is found, and commands run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.more
ROOT = Path(__file__).parents[2]
SHIPPED = {"config": "*.json", "config_tasks": "*.yml", "studies": "*.yaml"}
EXTRAS = ("h5py", "webdataset", "transformers", "tensorpack", "pytest", "hypothesis", "selenium")


def finished(command, folder, **environment):
    """Runs a command in a folder outside the tree, without this process's paths; returns it when it has ended well."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VOLTA_HOME", "VIRTUAL_ENV")}
    kept |= {"HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1", **environment}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=kept, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, f"{command}: {(done.stdout + done.stderr)[-2000:]}"
    return done


def files_of_the_tree():
    """What Git tracks, and would, below the root; of an unpacked source distribution, all that it holds."""
    if (ROOT / "PKG-INFO").is_file():
        made = ("PKG-INFO", "setup.cfg", "volta_switch.egg-info")  # by the build
        names = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
        return [name for name in names if not name.startswith(made) and "__pycache__" not in name]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of the tree's files: a build folder that lies in the tree adds nothing to what is built of it."""
    folder = tmp_path_factory.mktemp("source")
    for name in files_of_the_tree():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    finished([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, source], out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    finished([sys.executable, "-m", "venv", folder], "/")
    inside = folder / "bin" / "python"
    finished([inside, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], "/")
    return inside


@pytest.fixture
def said(python, tmp_path):
    """Runs Python there in an empty folder: said("-c", "print(1)") -> what it printed."""
    return lambda *arguments: finished([python, *arguments], tmp_path).stdout


def shipped_files():
    return sorted(path.relative_to(ROOT).as_posix() for at, form in SHIPPED.items() for path in (ROOT / at).rglob(form))


@pytest.fixture(scope="session")
def unpacked(source, python, tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    finished([python, "-m", "pip", "install", "--quiet", "setuptools>=77.0.3"], "/")
    build = f"import os, setuptools.build_meta as b; os.chdir({str(source)!r}); b.build_sdist({str(folder)!r})"
    finished([python, "-c", build], folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_source_distribution_is_the_whole_tree(unpacked):
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in names if name.startswith(("PKG-INFO", "setup.cfg", "volta_switch.egg-info"))}
    assert names - made == set(files_of_the_tree())


def test_tests_run_from_the_source_distribution(unpacked):
    """All are collected; some that read files of the tree are run, with what this environment has."""
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(unpacked)}
    finished([*pytest_, "--collect-only", "--include", "more", "--include", "long", "tests"], unpacked, **environment)
    finished(
        [*pytest_, "tests/test_shipped.py", "tests/config", "tests/tasks/test_task_file.py"], unpacked, **environment
    )


def test_the_wheel_has_all_that_is_shipped(wheel):
    inside = {name.partition("/share/volta_switch/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert sorted(inside - {""}) == shipped_files()
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("volta_switch/")}
    assert modules == {name for name in files_of_the_tree() if name.startswith("volta_switch/")}


def test_no_extra_is_there_and_the_package_is_not_the_trees(said):
    asked = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    assert json.loads(said("-c", asked, *EXTRAS)) == []
    assert "site-packages" in said("-c", "import volta_switch; print(volta_switch.__file__)")


def test_every_module_is_imported_without_an_extra(said):
    asked = (
        "import importlib, pkgutil, volta_switch as v\n"
        "for found in pkgutil.walk_packages(v.__path__, 'volta_switch.'):\n"
        "    importlib.import_module(found.name); print(found.name)\n"
    )
    assert len(said("-c", asked).split()) > 150


@pytest.mark.parametrize("kind", SHIPPED)
def test_what_is_shipped_is_found_from_another_folder(said, kind):
    reads = {
        "config": "from volta_switch import load_config; load_config(name.removeprefix('config/'))",
        "config_tasks": "from volta_switch.tasks import load_task; "
        "load_task(name, 'TASK18' if 'ablation' in name else 'TASK10')",
        "studies": "from volta_switch.study.plan import load_study; load_study(name)",
    }
    names = [name for name in shipped_files() if name.startswith(f"{kind}/")]
    assert names
    said("-c", f"import sys\nfor name in sys.argv[1:]:\n    {reads[kind]}", *names)


def console_commands(python):
    """The names of the console commands that the wheel brings."""
    asked = "import importlib.metadata as m; print(*m.distribution('volta-switch').entry_points.names)"
    return finished([python, "-c", asked], "/").stdout.split()


def helps_of(command, folder):
    """Asks a command and all its sub-commands for help; returns the sub-commands' lines, as they are typed."""
    text = finished([*command, "--help"], folder).stdout
    assert text.startswith(f"usage: {Path(command[0]).name}"), text
    listed = re.search(r"^positional arguments:\n  COMMAND\n((?:    .*\n)+)", text, re.MULTILINE)
    names = re.findall(r"^    (\S+)", listed[1], re.MULTILINE) if listed else []
    return [" ".join(command[1:]), *(line for name in names for line in helps_of([*command, name], folder))]


def test_every_command_and_sub_command_gives_help(python, tmp_path):
    names = console_commands(python)
    assert "volta-switch" in names
    found = [line for name in names for line in helps_of([python.parent / name], tmp_path)]
    assert {"world", "study run", "study power", "data check", "data repack", "flops", "routes", "volta"} <= set(found)


def test_a_shipped_study_is_planned_and_a_command_runs(python, tmp_path):
    command = python.parent / "volta-switch"
    planned = finished([command, "study", "run", "studies/demo.yaml", "--dry-run"], tmp_path).stdout
    assert "switchbert" in planned and "ctrl_lxmert" in planned
    assert "parameters" in finished([command, "flops", "demo/switchbert"], tmp_path).stdout
    finished([command, "finetune", "--task", "refcoco+", "--world", "--max_steps", "1"], tmp_path)
    assert (tmp_path / "runs/world/checkpoints/refcoco+_switchbert/pytorch_model_best.bin").is_file()
    finished([command, "evaluate", "--task", "refcoco+", "--world"], tmp_path)
    finished([command, "world", tmp_path / "world", "--images", "20", "--eval-images", "10", "--no-render"], tmp_path)
    assert (tmp_path / "world" / "tasks.yml").is_file()


def test_the_whole_path_goes_by_folders_alone_and_moved_models_are_the_same(python, tmp_path):
    """From a world to routes; what is said once, in pre-training, is never said again."""
    data, here = tmp_path / "data" / "world", tmp_path / "here"
    here.mkdir()

    def volta_switch(*words):
        return finished([python.parent / "volta-switch", *words], here)

    volta_switch("world", data, "--images", "20", "--eval-images", "10", "--no-render")
    captions = data / "datasets" / "conceptual_captions"
    features = captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    words = json.loads((data / "bert-world" / "config.json").read_text())["vocab_size"]
    sets = ["--set", f"bert_model={data / 'bert-world'}", "--set", f"vocab_size={words}", "--set", "switch.top_k=2"]
    pairs = ["--annotations_path", captions / "annotations", "--features_path", features, "--train_batch_size", "10"]
    volta_switch("pretrain", "--config", "demo/switchbert", *sets, *pairs, "--from_pretrained", "", "--max_steps", "4")
    tasks = ["--tasks_config_file", data / "tasks.yml", "--task", "VQA", "--num_epoch", "1", "--lr", "1e-3"]
    tuned = volta_switch("finetune", "--from_pretrained", "checkpoints/switchbert", *tasks, "--output_dir", "tuned")
    program = python.parent / "volta-switch"  # by its path, since the shell would find another one, or none
    assert f"next: {program} evaluate --from_pretrained tuned/VQA_switchbert --split val" in tuned.stderr

    def tested(folder):
        volta_switch("evaluate", "--from_pretrained", folder, "--data_root", data, "--split", "val")
        volta_switch("routes", "--from_pretrained", folder, "--data_root", data, "--out", f"{folder.name}.json")
        found = json.loads((here / "results" / f"VQA_{folder.name.removeprefix('VQA_')}/val_metrics.json").read_text())
        routes = json.loads((here / f"{folder.name}.json").read_text())
        assert routes["metrics"]["vqa_score"] == pytest.approx(found["vqa_score"])
        for one in (found, routes):
            del one["weights"]
        return found, {name: value for name, value in routes.items() if name != "config"}

    before = tested(Path("tuned/VQA_switchbert"))
    assert before[0]["of"]["config"]["switch"]["top_k"] == 2
    away = tmp_path / "elsewhere" / "a model"
    away.parent.mkdir()
    shutil.move(here / "tuned" / "VQA_switchbert", away)
    shutil.rmtree(here / "checkpoints")
    shutil.rmtree(data / "bert-world")
    assert tested(away) == before
    assert "parameters" in volta_switch("flops", away).stdout
