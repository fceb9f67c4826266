"""The reader of a checkout's imports, on a small checkout: it misses none, and says where they are."""

import textwrap

import pytest

from plugin.volta_imports import live_modules

FILES = {
    "setup.py": "import installs_it",
    "train.py": """
        import os, first.part as alias
        from volta.config import Config

        def main():
            if os.name:
                from inside import late
            alias.used(alias.other)
            not_alias.unused()
        """,
    "volta/__init__.py": "import of_the_package",
    "volta/config.py": "from .parts import thing\nfrom . import encoders",
    "volta/encoders.py": "class Model:\n    import in_a_class",
    "volta/parts/thing.py": """
        from ..cousin import name
        import tools.reader
        try:
            import fast
        except ImportError:
            fast = None
        try:
            import needed
        except ImportError:
            print("needed")
            raise
        """,
    "volta/cousin.py": "from lazily import *",
    "volta/not_live.py": "import dead",
    "tools/reader.py": "from volta.nowhere import gone\nexec('import hidden')\nimportlib.import_module('hidden')",
}


@pytest.fixture
def live(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return live_modules(tmp_path)


def test_every_import_that_scripts_reach_is_found_wherever_it_stands(live):
    assert {found.module: found.place for found in live.imports} == {
        "os": "train.py:2", "first.part": "train.py:2", "inside": "train.py:7",
        "of_the_package": "volta/__init__.py:1", "in_a_class": "volta/encoders.py:2",
        "fast": "volta/parts/thing.py:5", "needed": "volta/parts/thing.py:9", "lazily": "volta/cousin.py:1",
    }  # fmt: skip


def test_files_that_no_script_reaches_are_not_live(live):
    names = {str(file.relative_to(live.home)) for file in live.files}
    assert names == set(FILES) - {"setup.py", "volta/not_live.py"}


def test_what_is_taken_of_a_module_is_found(live):
    taken = {found.module: found.taken for found in live.imports}
    assert taken["first.part"] == {"used", "other"} and taken["inside"] == {"late"} and taken["lazily"] == {"*"}


def test_only_an_import_that_the_file_can_do_without_is_guarded(live):
    assert [found.module for found in live.imports if found.guarded] == ["fast"]


def test_what_is_nowhere_and_what_may_import_unseen_is_told(live):
    assert [(found.module, found.place) for found in live.absent] == [("volta.nowhere", "tools/reader.py:1")]
    assert live.by_name == ["tools/reader.py:2", "tools/reader.py:3"]
