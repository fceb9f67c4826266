"""The extra ``[volta]`` and the stand-ins bring all that VOLTA's scripts import: by its text, and by importing it.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from plugin.linked_packages import LinkedPackages, asked_for, closure, stated
from plugin.volta_imports import Import, live_modules
from volta_switch.plugin.checkout import EXTRA, name_in, package_of
from volta_switch.plugin.replacements import MASKS, STAND_INS, apex_parallel

if not Path(os.environ.get("VOLTA_HOME") or "/nowhere", "volta", "encoders.py").is_file():
    pytest.skip("VOLTA_HOME is not set to a checkout of VOLTA", allow_module_level=True)

HOME = Path(os.environ["VOLTA_HOME"]).resolve()
LIVE = live_modules(HOME)
FOREIGN = [found for found in LIVE.imports if found.top not in sys.stdlib_module_names and not found.guarded]
TENSORFLOW = "volta/encoders.py:70"  # to read TensorFlow's checkpoints, which no script asks for
OFFERED = {
    **{name: set(taken) for modules in STAND_INS.values() for name, taken in modules.items()},
    "apex.parallel": set(vars(apex_parallel())),
}
PREPARES_ALL = """
    import importlib.util
    import sys
    from pathlib import Path

    from volta_switch.plugin.repairs import choose
    from volta_switch.plugin.script import Script

    home, *absent = sys.argv[1:]
    assert not [name for name in absent if importlib.util.find_spec(name)], "found what nobody asked for"
    for script in ("train_concap.py", "train_task.py", "eval_task.py", "eval_retrieval.py"):
        prepared = Script(Path(home), script)
        prepared.prepare(choose(), [])
        print("prepared", script, *sorted(prepared.applied))
        prepared.patches.undo()
"""


# --- By its text ----------------------------------------------------------------------------------------------------


def stood_in(found: Import) -> bool:
    """Whether a stand-in has the module, and all that VOLTA takes of it."""
    return found.taken <= OFFERED.get(found.module, set()) and found.module in OFFERED


@pytest.mark.parametrize("found", FOREIGN, ids=lambda found: f"{found.place}-{found.module}")
def test_what_a_live_module_imports_is_declared_or_stood_in_for(found):
    declared = {name_in(requirement) for requirement in asked_for(EXTRA)}
    assert name_in(package_of(found.module)) in declared or stood_in(found) or found.place == TENSORFLOW, (
        f"{found.place} imports {found.module} ({', '.join(sorted(found.taken))}): declare {package_of(found.module)} "
        "in pyproject.toml's extra [volta], or stand in for it (volta_switch/plugin/replacements.py)"
    )


def test_the_extra_declares_nothing_that_volta_does_not_import():
    imported = {name_in(package_of(found.module)) for found in FOREIGN}
    assert {name_in(requirement) for requirement in stated()["optional-dependencies"][EXTRA]} <= imported


def test_the_live_modules_are_those_that_volta_loads():
    files = {str(file.relative_to(HOME)) for file in LIVE.files}
    assert {"train_task.py", "volta/encoders.py", "volta/datasets/vcr_dataset.py", "tools/refer/refer.py"} <= files
    assert not LIVE.by_name, "a module that is imported by its name may be any"


def test_what_volta_imports_of_its_own_is_there_or_stood_in_for():
    absent = {(found.place, found.module): found.taken for found in LIVE.absent}
    masks = absent.pop(("tools/refer/external/mask.py:4", "tools.refer.external._mask"), set())
    assert masks <= set(MASKS)
    assert list(absent) == [("train_concap_wiki.py:23", "volta.volta.config")], "which stops that script anywhere"


def test_no_script_asks_for_tensorflows_checkpoints():
    assert "tensorflow" in (HOME / TENSORFLOW.split(":")[0]).read_text()
    assert not [script for script in HOME.glob("*.py") if "from_tf" in script.read_text()]


# --- By importing it ------------------------------------------------------------------------------------------------


def linked(folder, *without):
    """The extra's packages alone."""
    try:
        return LinkedPackages(folder / "packages", EXTRA, without=without)
    except metadata.PackageNotFoundError as error:
        pytest.skip(f'the extra is not installed here ({error}): pip install -e ".[volta]"')


def test_volta_is_imported_where_only_the_extra_is_installed(tmp_path):
    alone = linked(tmp_path)
    tests_own = {name_in(requirement) for requirement in ("pytest", "hypothesis", "matplotlib", "scikit-image")}
    assert not tests_own & set(closure(asked_for(EXTRA)))
    absent = ("pytest", "hypothesis", "matplotlib", "skimage", "datasets")
    done = alone.run("-c", textwrap.dedent(PREPARES_ALL), str(HOME), *absent, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    prepared = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("prepared")]
    assert [script for script, *_ in prepared] == [
        "train_concap.py",
        "train_task.py",
        "eval_task.py",
        "eval_retrieval.py",
    ]
    assert all({"refer-pictures", "refer-masks", "wikipedias", "apex-ddp"} <= set(repairs) for _, *repairs in prepared)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("easydict", r'train_task\.py: .*; the package easydict is missing: pip install "volta-switch\[volta\]"'),
        ("boto3", r'volta/encoders\.py: .*; the package boto3 is missing: pip install "volta-switch\[volta\]"'),
        ("tensorpack", r'volta/.*; the package tensorpack is missing: pip install "volta-switch\[volta\]"'),
        # the extra does not name it, and pip brings it for another package
        ("regex", r"volta/.*; the package regex is missing, which [\w-]+ asks for: pip install regex"),
    ],
)
def test_a_missing_package_is_named_with_what_brings_it(tmp_path, without, told):
    done = linked(tmp_path, without).run(
        "-m", "volta_switch.plugin", "train_task.py", "--help", cwd=tmp_path, VOLTA_HOME=str(HOME)
    )
    assert done.returncode == 2, done.stderr
    *before, line = done.stderr.splitlines()
    assert re.fullmatch(f"error: {told}", line), line
    assert not [other for other in before if "error" in other or "Traceback" in other]
