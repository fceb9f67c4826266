"""Modules in place of packages that are not installed: importable, refusing to be used, and not taken for installed."""

import importlib
import importlib.util
import sys

import pytest

from volta_switch import UserError
from volta_switch.plugin.replacements import STAND_INS, Patches, installed, stand_ins, version

ABSENT = [name for name in STAND_INS if not installed(name)]


@pytest.fixture
def stood_in(monkeypatch):
    """Puts the modules of a package in place, for one test."""
    patches = Patches()

    def put(name):
        for module, stand_in in stand_ins(name, "a reason").items():
            patches.set_item(sys.modules, module, stand_in)

    yield put
    patches.undo()


@pytest.mark.parametrize("name", ABSENT)
def test_all_that_volta_takes_can_be_imported_and_says_why_it_cannot_be_called(stood_in, name):
    stood_in(name)
    for module, functions in STAND_INS[name].items():
        imported = importlib.import_module(module)
        assert importlib.import_module(name) is sys.modules[name]
        for function in functions:
            with pytest.raises(UserError, match=rf"^{module}\.{function}: a reason$"):
                getattr(imported, function)()


def test_a_module_of_a_stand_in_is_an_attribute_of_it(stood_in):
    if installed("matplotlib"):
        pytest.skip("matplotlib is installed, and nothing stands in for it")
    stood_in("matplotlib")
    namespace = {}
    exec("import matplotlib.pyplot\nuse = matplotlib.pyplot.gca", namespace)
    assert callable(namespace["use"])


@pytest.mark.parametrize("name", ABSENT)
def test_a_package_that_is_stood_in_for_can_be_asked_for_and_is_not_installed(stood_in, name):
    stood_in(name)
    for module in STAND_INS[name]:
        importlib.util.find_spec(module)  # as transformers 4 asks for datasets; a module without a spec is an error
    assert not installed(name) and version(name) == ()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{name}.surely_not_there")


def test_an_installed_package_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "skimage").mkdir()
    (tmp_path / "skimage" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed("skimage") and stand_ins("skimage", "a reason") == {}


def test_a_mere_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "datasets").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    if "datasets" in ABSENT:
        assert not installed("datasets") and "datasets" in stand_ins("datasets", "a reason")
