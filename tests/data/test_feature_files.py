"""Formats of feature files are found by being there, asked in one order, and imported when a file is opened."""

import subprocess
import sys

import pytest

from small_regions import some_regions
from volta_switch import UserError
from volta_switch.cli import main
from volta_switch.data import feature_files, formats
from volta_switch.data.feature_files import Candidate, Format, find_format, image_format, open_features

MODULE = """
from volta_switch.data.feature_files import Format, Target
from volta_switch.data.formats.h5 import H5Features, h5_name, write_h5

FORMAT = Format(
    "odd",
    "odd files",
    "odd file",
    fits=lambda candidate: candidate.path.suffix == ".odd",
    images=H5Features,
    targets=(Target("odd", write_h5, h5_name),),
    order=41,  # before H5, which these files are inside
)
"""


@pytest.fixture
def one_more(tmp_path, monkeypatch):
    """A format that is one more file of the folder."""
    folder = tmp_path / "formats"
    folder.mkdir()
    (folder / "odd.py").write_text(MODULE)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    feature_files.formats.cache_clear()
    yield
    feature_files.formats.cache_clear()
    sys.modules.pop("volta_switch.data.formats.odd", None)


def test_formats_are_asked_in_one_order():
    assert [each.name for each in feature_files.formats()] == ["compact", "shards", "concap", "lmdb", "h5", "tsv"]
    assert all(each.images or each.pairs for each in feature_files.formats())


def test_a_format_is_one_file_and_every_command_knows_it(one_more, tmp_path, capsys):
    from volta_switch.data.formats.tsv import write_tsv

    write_tsv(tmp_path / "x.tsv", [some_regions(name) for name in "ab"])
    source, out, back = (str(tmp_path / name) for name in ("x.tsv", "x.odd", "y.tsv"))
    for words in (["convert", source, out, "--to", "odd"], ["convert", out, back, "--to", "tsv"], ["check", out]):
        main(["data", *words])
    assert f"{out}: odd files" in capsys.readouterr().out
    assert image_format(out).name == "odd" and open_features(out).keys() == ["a", "b"]
    with pytest.raises(SystemExit):
        main(["data", "convert", "--help"])
    assert "npy-lmdb, odd, tsv," in " ".join(capsys.readouterr().out.split())
    (tmp_path / "other").write_text("-")
    with pytest.raises(UserError, match="expected an LMDB, odd, H5 or TSV file of region features, or a compact store"):
        open_features(tmp_path / "other")


def test_a_path_of_no_format_has_none(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    assert find_format(tmp_path / "x") is None and find_format(tmp_path) is None and find_format(tmp_path / "y") is None
    assert Candidate(tmp_path / "y").head == b""


def test_what_a_format_holds_is_said_by_what_it_opens():
    pairs = Format("x", "x", "x", lambda _: True, pairs=lambda path: None)
    images = Format("x", "x", "x", lambda _: True, images=lambda path: None)
    assert [each.kind_of(None) for each in (pairs, images)] == ["pairs", "images"]


def test_commands_are_made_without_the_formats():
    code = (
        "import sys; from volta_switch.cli import command_parser; command_parser();"
        "assert not [name for name in sys.modules if name.startswith('volta_switch.data.formats.')"
        " and name.rpartition('.')[2] not in ('compact', 'shards', 'concap', 'task_lmdb')];"
        "assert 'h5py' not in sys.modules and 'webdataset' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
