"""``data check --full``: a checksum of every byte beside each file, by which runs know it from then on."""

import json

from volta_switch import cli
from volta_switch.data.fingerprints import store_fingerprint


def checked(*arguments):
    cli._run(["data", "check", "--json", *map(str, arguments)])


def test_every_file_that_was_checked_gets_its_checksum(world, tmp_path, capsys):
    copy = world.copy(tmp_path / "world")
    checked(copy.tasks_file, "--task", "refcoco+", "--full")
    reports = json.loads(capsys.readouterr().out)
    kept = [path for path in copy.path.rglob("*.sha256.json")]
    notes = [note for report in reports for note in report["notes"] if "SHA-256 of all bytes" in note]
    assert len(kept) == len(notes) > 3
    features = next(path for path in kept if "feat.lmdb" in path.name or ".lmdb." in path.name)
    found = store_fingerprint(features.with_name(features.name.removesuffix(".sha256.json")))
    assert found["sha256_of_all"] == json.loads(features.read_text())["sha256_of_all"]
    checked(copy.path / "datasets" / "refcoco+_unc", "--full")  # its own files are no data
    assert "sha256.json" not in json.dumps([report["path"] for report in json.loads(capsys.readouterr().out)])


def test_the_data_root_of_a_task_file_can_be_named(world, tmp_path, capsys):
    moved = tmp_path / "tasks.yml"
    moved.write_text(world.tasks_file.read_text())
    checked(moved, "--task", "refcoco+", "--data-root", world.path)
    assert all(not report["problems"] for report in json.loads(capsys.readouterr().out))
