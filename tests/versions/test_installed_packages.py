"""What pyproject.toml requires is installed and imports: a test that is skipped for want of it would hide that."""

import importlib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from version_records import package, project, stated_requirements

MODULES = {"PyYAML": "yaml", "pillow": "PIL", "pytest-xdist": "xdist"}  # the others' are named like their packages
BUILD = project()["build-system"]["requires"]
STATED = [requirement for requirement in stated_requirements(project()) if requirement not in BUILD]


@pytest.mark.parametrize("requirement", STATED)
def test_what_is_stated_is_installed_in_a_stated_version_and_imports(requirement):
    name = package(requirement)
    version = metadata.version(name)
    assert Requirement(requirement).specifier.contains(version, prereleases=True), version
    importlib.import_module(MODULES.get(name, name))
