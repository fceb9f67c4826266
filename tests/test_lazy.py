"""Packages whose heavy names are imported when they are asked for."""

import subprocess
import sys

import pytest

import volta_switch
from volta_switch import tasks, world

PACKAGES = [volta_switch, tasks, world]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_package_offers_is_there(package):
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name) and name in dir(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_another_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_the_library_is_imported_without_pytorch_and_gives_models_all_the_same():
    code = (
        "import sys, volta_switch, volta_switch.tasks, volta_switch.world;"
        "from volta_switch import load_config; load_config('switchbert');"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules;"
        "from volta_switch import BertForVLPreTraining, Routes; from volta_switch.tasks import build_task, task_of;"
        "assert 'torch' in sys.modules and task_of('refcoco+').heads == ('V-logit',) and BertForVLPreTraining.__name__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
