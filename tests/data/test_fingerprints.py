"""Fingerprints of data: the same for the same data anywhere, another one for what has changed."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from small_regions import some_regions
from volta_switch import UserError
from volta_switch.data import fingerprints
from volta_switch.data.feature_files import PROBES, open_source
from volta_switch.data.fingerprints import file_fingerprint, store_fingerprint, whole_fingerprint
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data_tools.repack import repack
from volta_switch.identities import differences


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(count=10):
    return [some_regions(str(number), seed=number) for number in range(count)]


def with_another_box(image):
    return replace(image, boxes=image.boxes + np.float32(1))


CHANGES = {
    "a feature": lambda image: replace(image, features=image.features + np.float32(1e-3)),
    "a box": with_another_box,
    "a size": lambda image: replace(image, image_w=image.image_w + 1),
    "a name": lambda image: replace(image, image_id="x"),
    "a class": lambda image: replace(image, objects_id=image.objects_id[::-1].copy()),
}


@pytest.mark.parametrize("write", [write_features, write_tsv])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_record_gives_another_fingerprint_and_a_copy_the_same(tmp_path, write, change):
    plain = images()
    write(tmp_path / "plain", plain)
    write(tmp_path / "changed", [CHANGES[change](plain[0]), *plain[1:]])
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "copy", plain)
    found = store_fingerprint(tmp_path / "plain")
    assert found["records"] == 10 and found["bytes"] > 0
    assert store_fingerprint(tmp_path / "elsewhere" / "copy") == found
    assert store_fingerprint(tmp_path / "changed")["fingerprint"] != found["fingerprint"]


def test_images_in_another_order_or_two_that_have_changed_places_are_other_data(tmp_path):
    plain = images()
    swapped = [replace(plain[1], image_id="0"), replace(plain[0], image_id="1"), *plain[2:]]
    for name, some in (("plain", plain), ("swapped", swapped), ("reversed", plain[::-1]), ("fewer", plain[1:])):
        write_features(tmp_path / name, some)
    found = [store_fingerprint(tmp_path / name)["fingerprint"] for name in ("plain", "swapped", "reversed", "fewer")]
    assert len(set(found)) == 4


def test_of_a_large_file_a_share_of_the_records_is_read_and_all_names(tmp_path):
    """One changed record of n is missed with chance 1 - PROBES / n."""
    plain = images(200)
    write_features(tmp_path / "plain", plain)
    found = store_fingerprint(tmp_path / "plain")["fingerprint"]
    seen = 0
    for place in range(0, 200, 10):
        write_features(tmp_path / f"{place}", [*plain[:place], with_another_box(plain[place]), *plain[place + 1 :]])
        seen += store_fingerprint(tmp_path / f"{place}")["fingerprint"] != found
    assert PROBES == 64 and 2 <= seen <= 12
    write_features(tmp_path / "renamed", [*plain[:77], replace(plain[77], image_id="077"), *plain[78:]])
    assert store_fingerprint(tmp_path / "renamed")["fingerprint"] != found


def test_a_stores_manifest_stands_for_all_of_its_records(tmp_path):
    plain = images(200)
    for name, some in (("plain", plain), ("changed", [*plain[:-1], with_another_box(plain[-1])])):
        write_features(tmp_path / f"{name}.lmdb", some)
        repack([tmp_path / f"{name}.lmdb"], tmp_path / name)
    assert store_fingerprint(tmp_path / "plain") != store_fingerprint(tmp_path / "changed")


def test_every_byte_of_a_file_counts(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text('{"a": 1}')
    first = file_fingerprint(path)
    path.write_text('{"a": 2}')
    assert file_fingerprint(path) != first


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_SETTLED", 0.0)
    path = tmp_path / "annotations.json"
    path.write_text('{"a": 1}')
    found = file_fingerprint(path)
    monkeypatch.setattr(fingerprints, "measured", lambda path: pytest.fail("read again"))
    assert file_fingerprint(path) == found
    before = path.stat()
    path.write_text('{"a": 2}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the size and this time are those of before
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert file_fingerprint(path) != found


def test_a_file_that_was_just_written_is_not_kept(tmp_path, own_cache):
    """Where a disk counts its times in seconds, a second change within one would not show."""
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    file_fingerprint(path)
    assert not own_cache.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"state": 1', b"\xff", b'{"state": [], "fingerprint": {}}'])
def test_a_damaged_cache_costs_time_alone(tmp_path, own_cache, monkeypatch, content):
    monkeypatch.setattr(fingerprints, "_SETTLED", 0.0)
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    found = file_fingerprint(path)
    (kept,) = own_cache.rglob("*.json")
    kept.write_bytes(content)
    assert file_fingerprint(path) == found


def test_a_checksum_of_all_bytes_is_compared_where_both_sides_know_it(tmp_path):
    plain = images(100)
    for name in ("plain", "copy"):
        write_features(tmp_path / name, plain)
    passed_over = min(set(range(100)) - set(open_source(tmp_path / "plain")._probed()))
    plain[passed_over] = with_another_box(plain[passed_over])
    write_features(tmp_path / "other", plain)
    alone = store_fingerprint(tmp_path / "copy")
    assert alone == store_fingerprint(tmp_path / "other")  # the chance that is stated
    whole_fingerprint(tmp_path / "plain")
    known = store_fingerprint(tmp_path / "plain")
    assert known.keys() - alone.keys() == {"sha256_of_all"}
    assert not list(differences(alone, known)) and not list(differences(known, alone))
    for name in ("copy", "other"):
        whole_fingerprint(tmp_path / name)
    assert not list(differences(known, store_fingerprint(tmp_path / "copy")))
    assert [name for name, _, _ in differences(known, store_fingerprint(tmp_path / "other"))] == ["sha256_of_all"]


def test_a_checksum_of_bytes_that_have_changed_since_is_not_believed(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    whole_fingerprint(path)
    assert "sha256_of_all" in file_fingerprint(path)
    path.write_text("[]\n")
    assert "sha256_of_all" not in file_fingerprint(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
        file_fingerprint(tmp_path / "none")


def test_differences_are_named_by_dotted_names_in_the_order_of_now():
    before = {"b": {"x": 1, "y": [1]}, "a": 1, "gone": 2}
    now = {"a": 2, "b": {"x": 1, "y": [2]}, "new": 3}
    assert list(differences(before, now)) == [("a", 1, 2), ("b.y", [1], [2]), ("new", None, 3), ("gone", 2, None)]
    assert not list(differences(json.loads(json.dumps(now)), now))


def test_the_cache_is_never_in_the_way(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(fingerprints, "_SETTLED", 0.0)
    own_cache.write_text("a file where a folder belongs")
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    assert file_fingerprint(path)["bytes"] == 2
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_kept_fingerprint_that_has_changed_is_not_believed(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(fingerprints, "_SETTLED", 0.0)
    path = tmp_path / "annotations.json"
    path.write_text("{}")
    found = file_fingerprint(path)
    (kept,) = own_cache.rglob("*.json")
    for before, after in (('"bytes": 2', '"bytes": 3'), (found["sha256"][:9], "0" * 9)):
        kept.write_text(kept.read_text().replace(before, after))
        assert file_fingerprint(path) == found
    whole = whole_fingerprint(path)
    beside = tmp_path / "annotations.json.sha256.json"
    beside.write_text(beside.read_text().replace(whole["sha256_of_all"][:9], "0" * 9))
    assert "sha256_of_all" not in file_fingerprint(path)
