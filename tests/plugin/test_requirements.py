"""What is said of an import that fails: the package that is missing, and what really brings it."""

import importlib
from importlib.metadata import PackageNotFoundError

import pytest

from volta_switch import UserError
from volta_switch.plugin.checkout import imports_explained, name_in, package_of, remedy
from volta_switch.plugin.replacements import installed

EXTRA = 'pip install "volta-switch[volta]"'


@pytest.fixture
def metadata(tmp_path, monkeypatch):
    """Packages as pip notes them: metadata("name", "requirement", ...)."""

    def write(name, *requirements):
        info = tmp_path / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        lines = [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5",
            *(f"Requires-Dist: {one}" for one in requirements),
        ]
        (info / "METADATA").write_text("\n".join(lines) + "\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    write("volta-switch", "core_thing>=1", 'made-up_package>=2.0; extra == "volta"', "tested ; extra == 'test'")
    return write


def told(module):
    """What is said where a module is imported that cannot be."""
    with pytest.raises(UserError) as caught, imports_explained("volta/some.py"):
        __import__(module)
    message = str(caught.value)
    assert message.startswith("volta/some.py: VOLTA cannot be imported (") and "\n" not in message
    return message


@pytest.mark.parametrize("module", ["made_up_package", "made_up_package.part"])
@pytest.mark.usefixtures("metadata")
def test_the_extra_is_recommended_for_what_it_brings(module):
    assert told(module).endswith(f"; the package made-up-package is missing: {EXTRA}")


@pytest.mark.parametrize("module", ["core_thing", "tested", "surely_not_installed"])
@pytest.mark.usefixtures("metadata")
def test_the_extra_is_not_recommended_for_what_it_does_not_bring(module):
    message = told(module)
    assert module in message and "volta-switch[" not in message


@pytest.mark.usefixtures("metadata")
def test_what_another_package_asks_for_is_told_with_it(metadata):
    assert told("core_thing").endswith("core-thing is missing, which volta-switch asks for: pip install core-thing")
    metadata("some-reader", "deep_thing!=3", "other ; extra == 'volta'")
    assert told("deep_thing").endswith("deep-thing is missing, which some-reader asks for: pip install deep-thing")
    assert "pip install" not in told("other"), "only an extra of another package asks for it"


@pytest.mark.usefixtures("metadata")
def test_a_package_that_nobody_asks_for_is_not_guessed():
    message = told("surely_not_installed")
    assert message.endswith("the package of surely_not_installed is missing; VOLTA's commit 62f78cd does not import it")


@pytest.mark.skipif(installed("skimage"), reason="scikit-image is installed")
def test_what_a_stand_in_was_left_out_for_is_told_by_its_packages_name():
    assert told("skimage.io").endswith("the package scikit-image is missing: pip install scikit-image")


@pytest.mark.parametrize("name", ["core-thing", "The 'core-thing!=2019.12.17' distribution was not found; try 'this'"])
def test_a_package_that_checks_its_own_requirements_is_understood(metadata, name):
    message = remedy(PackageNotFoundError(name))  # as transformers 4 does
    assert message == "the package core-thing is missing, which volta-switch asks for: pip install core-thing"


def test_the_indexs_apex_is_never_recommended():
    for module in ("apex", "apex.parallel"):
        message = remedy(ModuleNotFoundError(f"No module named {module!r}", name=module))
        assert "build it from github.com/NVIDIA/apex" in message and "pip install" not in message


@pytest.mark.parametrize("module", ["volta.nothing", "tools.refer.external"])
def test_a_part_of_volta_that_is_not_there_is_told_to_be_voltas(module):
    message = remedy(ImportError("cannot import name '_mask'", name=module))
    assert message == f"{module} is a part of VOLTA itself, which this checkout lacks or has not built"


def test_an_installed_package_that_fails_is_told_with_its_version(metadata, tmp_path):
    metadata("made-up-package")
    said = "made-up-package 1.5 is installed and cannot be used: pip install --force-reinstall -c constraints.txt"
    assert said in told("made_up_package")  # its files are gone
    (tmp_path / "made_up_package.py").write_text("from made_up_package import nothing")
    importlib.invalidate_caches()
    assert "cannot import name 'nothing'" in told("made_up_package") and said in told("made_up_package")


@pytest.mark.parametrize("line", ["raise TypeError('two\\nlines')", "from json import surely_not_there"])
def test_an_error_that_is_no_missing_package_is_told_as_such(tmp_path, monkeypatch, line):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_up_module.py").write_text(line)
    assert told("made_up_module").endswith("; no package is missing; constraints.txt has the versions that were tried")


def test_a_message_of_this_project_goes_through_as_it_is():
    with pytest.raises(UserError, match=r"^as it is$"), imports_explained("x"):
        raise UserError("as it is")


def test_names_of_modules_and_requirements_lead_to_the_package():
    assert [package_of(name) for name in ("yaml", "skimage.io", "botocore.exceptions", "json_lines", "tqdm")] == [
        "PyYAML", "scikit-image", "boto3", "json-lines", "tqdm",
    ]  # fmt: skip
    assert [name_in(one) for one in ("PyYAML>=6.0", "json_lines", "a.b[c]>=1,<2; x == 'y'")] == [
        "pyyaml", "json-lines", "a-b",
    ]  # fmt: skip
