"""Shards behind an address: what is fetched, kept, removed and tried again, and what the user is told."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from file_server import FileServer, serving
from small_regions import some_regions
from volta_switch.data.feature_files import open_pairs
from volta_switch.data.files import shard_cache
from volta_switch.data.files.shard_cache import GIB, ShardCache, ShardError, default_cache_folder
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.shards import ShardPairs, open_shards
from volta_switch.data_tools.repack import shard
from volta_switch.errors import BadRecord, UserError

COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_concap(folder / "p.lmdb", [(some_regions(str(i), i, 3, 64), f"a dog {i}") for i in range(COUNT)])
    shard([folder / "p.lmdb"], folder, "train", shard_size=5000)
    return folder


@pytest.fixture
def server(root):
    with serving(root) as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """No pauses, but a list of those that were made."""
    made: list[float] = []
    monkeypatch.setattr(shard_cache.time, "sleep", made.append)
    return made


def cache_of(tmp_path: Path, limit: int = GIB) -> ShardCache:
    return ShardCache(tmp_path / "cache", limit)


def kept(cache: ShardCache) -> list[Path]:
    return sorted(path for path in cache.folder.iterdir() if path.suffix != ".lock")


def error_of(read) -> str:
    with pytest.raises(ShardError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(pairs, root: Path) -> bool:
    local = ShardPairs(root / "training")
    return all(
        pairs[i][1] == local[i][1] == f"a dog {i}" and (pairs[i][0].features == local[i][0].features).all()
        for i in range(COUNT)
    )


def test_every_shard_is_fetched_once_when_it_is_needed(root, server, tmp_path) -> None:
    cache = cache_of(tmp_path)
    pairs = open_pairs(server.url, "train", cache=cache)
    assert len(pairs) == COUNT and not server.shards_asked()
    pairs[0]
    assert server.shards_asked() == {"shard-000000.tar": 1}
    assert equal(pairs, root) and set(server.shards_asked().values()) == {1}
    assert len(server.shards_asked()) == len(kept(cache)) == len(pairs.blocks) > 8
    assert equal(open_pairs(f"{server.url}/", "train", cache=cache), root)  # another run finds them there
    assert set(server.shards_asked().values()) == {1} and server.asked["/training/index.json"] == 2


def test_a_folder_is_read_where_it_is(root, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    for source in (root, str(root), f"file://{root}"):
        assert equal(open_pairs(source, "train"), root)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"validation_feat_all.lmdb: .* not found"):
        open_pairs(root, "valid")


def test_the_cache_is_below_xdg_cache_home_or_the_temporary_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "volta-switch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_cache_folder() == tmp_path / f"volta-switch-{os.getuid()}"


# Failures


@pytest.mark.parametrize("fault", [500, 503, 429, "truncated", "hang up"])
def test_what_fails_twice_is_tried_again_after_growing_pauses(root, server, tmp_path, pauses, fault) -> None:
    server.faults = {"shard-000001.tar": [fault, fault], "index.json": [fault]}
    cache = cache_of(tmp_path)
    assert equal(open_shards(server.url, "train", cache=cache), root)
    assert server.shards_asked()["shard-000001.tar"] == 3 and pauses == [1.0, 1.0, 2.0]
    assert all(path.suffix == ".tar" for path in kept(cache))


@pytest.mark.parametrize("fault", ["wrong", "longer"])
def test_wrong_bytes_are_fetched_once_more_and_then_named(root, server, tmp_path, pauses, fault) -> None:
    server.faults = {"shard-000001.tar": [fault], "shard-000002.tar": [fault, fault, fault]}
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    first = int(pairs.blocks[0])
    assert pairs[first][1] == f"a dog {first}" and server.shards_asked()["shard-000001.tar"] == 2
    message = error_of(lambda: pairs[int(pairs.blocks[:2].sum())])
    assert message == (
        f"{server.url}/training/shard-000002.tar: damaged, its checksum is not that of the index; copy the shard "
        "again, or write the shards again"
    )
    assert server.shards_asked()["shard-000002.tar"] == 2 and pauses == []
    assert len(kept(cache_of(tmp_path))) == 1


def test_a_shard_that_is_not_there_is_named_at_once(root, server, tmp_path, pauses) -> None:
    server.faults = {"shard-000003.tar": [404, 404]}
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    message = error_of(lambda: pairs[int(pairs.blocks[:3].sum())])
    assert message.startswith(f"{server.url}/training/shard-000003.tar: cannot be fetched (HTTP Error 404: Not Found)")
    assert pauses == [] and server.shards_asked() == {"shard-000003.tar": 1}
    assert f"{server.url}/validation/index.json: cannot be fetched (HTTP Error 404" in error_of(
        lambda: open_shards(server.url, "valid", cache=cache_of(tmp_path))
    )


def test_a_server_that_is_gone_is_named_after_five_tries(root, tmp_path, pauses) -> None:
    server = FileServer(root)
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    pairs[0]
    server.stop()
    pairs[0]
    message = error_of(lambda: pairs[COUNT - 1])
    assert message.startswith(f"{server.url}/training/{pairs.index.shards[-1].name}: cannot be fetched in 5 tries (")
    assert pauses == [1.0, 2.0, 4.0, 8.0] and not list((tmp_path / "cache").glob("*.part"))


def test_an_error_in_a_loaders_worker_is_one_line_too(root, server, tmp_path) -> None:
    server.faults = {"shard-000000.tar": [404]}
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    loader = DataLoader(pairs, batch_size=None, num_workers=1)  # type: ignore[arg-type]
    message = error_of(lambda: next(iter(loader)))
    assert message.startswith(f"{server.url}/training/shard-000000.tar: cannot be fetched (HTTP Error 404")
    assert not isinstance(ShardError("x"), BadRecord)  # --max-bad-records must not pass over whole shards


def test_a_shard_that_was_damaged_in_the_cache_is_fetched_again(root, server, tmp_path) -> None:
    cache = cache_of(tmp_path)
    open_shards(server.url, "train", cache=cache)[0]
    (path,) = kept(cache)
    for damaged in (path.read_bytes()[:100], b"\1" * path.stat().st_size, b""):
        path.write_bytes(damaged)
        assert open_shards(server.url, "train", cache=cache)[0][1] == "a dog 0"
    assert server.shards_asked() == {"shard-000000.tar": 4}


def test_a_cache_that_cannot_be_written_is_named(root, server, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    pairs = open_shards(server.url, "train", cache=ShardCache(tmp_path / "file" / "cache", GIB))
    assert error_of(lambda: pairs[0]).startswith(f"{tmp_path / 'file' / 'cache'}: cannot be written (Not a directory)")


def test_a_full_disk_is_not_taken_for_a_failing_network(root, server, tmp_path, pauses) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    with Path("/dev/full").open("wb", buffering=0) as full:
        message = error_of(
            lambda: shard_cache.fetch_shard(f"{pairs.path}/shard-000000.tar", pairs.index.shards[0], full)
        )
    assert "a shard cannot be kept there (No space left on device)" in message and pauses == []


@pytest.mark.parametrize("address", ["pipe://cat x", "ftp://host/x", "nothing://x"])
def test_an_address_of_another_kind_is_refused(tmp_path, address) -> None:
    assert f"no way to fetch {address.split(':')[0]}: addresses; expected https" in error_of(
        lambda: open_pairs(address, "train")
    )


def test_s3_is_read_through_the_aws_command(root, tmp_path, monkeypatch) -> None:
    command = tmp_path / "bin" / "aws"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] || exit 9\nexec cat "{root}/${{3#s3://bucket/}}"\n')
    pairs_of = lambda: open_pairs("s3://bucket", "train", cache=cache_of(tmp_path))  # noqa: E731
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "s3://bucket/training/index.json: cannot be fetched (" in error_of(pairs_of)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    command.chmod(0o755)
    assert equal(pairs_of(), root)
    command.write_text("#!/bin/sh\nexit 3\n")
    assert "s3://bucket/training/index.json: cannot be fetched in 5 tries (" in error_of(pairs_of)


# The limit, and several processes


def test_the_oldest_used_are_removed_where_the_limit_is_reached(root, server, tmp_path) -> None:
    everything = open_shards(server.url, "train", cache=cache_of(tmp_path / "a"))
    shards = everything.index.shards
    cache = ShardCache(tmp_path / "b", sum(shard.bytes for shard in shards[:3]))
    names = [f"{server.url}/training/{shard.name}" for shard in shards]
    views = []
    for step, number in enumerate((0, 1, 2, 0, 3)):
        views.append(cache.opened(names[number], shards[number]))
        os.utime(
            cache.folder / f"{shards[number].sha256}.tar", (step, step)
        )  # opened in this order, whatever the clock
        assert sum(path.stat().st_size for path in kept(cache)) <= cache.limit
    assert [cache.holds(shard) for shard in shards[:4]] == [True, False, True, True]
    assert views[1].nbytes == shards[1].bytes and bytes(views[1]) == (root / "training" / shards[1].name).read_bytes()


def test_a_cache_too_small_for_the_order_is_refused_with_what_it_takes(root, server, tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        open_shards(server.url, "train", cache=ShardCache(tmp_path, 10_000))
    assert str(caught.value) == (
        f"{server.url}/training: the cache of 9.31e-06 GiB is too small for these shards; give "
        "--shard_cache_gib 0.001 or more"
    )


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(root, server, tmp_path) -> None:
    shards = open_shards(server.url, "train", cache=cache_of(tmp_path)).index.shards
    cache = ShardCache(tmp_path / "cache", shards[0].bytes)
    cache.folder.mkdir()
    left, written = cache.folder / f"{'ab' * 32}.part", cache.folder / f"{'cd' * 32}.part"
    for path in (left, written):
        path.write_bytes(b"x" * 2000)
    locked, done = multiprocessing.Event(), multiprocessing.Event()

    def write() -> None:
        import fcntl

        with (cache.folder / "cd.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            locked.set()
            done.wait(60)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    assert locked.wait(60)
    cache.opened(f"{server.url}/training/{shards[0].name}", shards[0])
    assert not left.exists() and written.exists() and cache.holds(shards[0])
    done.set()
    process.join(60)


def test_two_processes_that_need_a_shard_at_once_fetch_it_once(root, server, tmp_path) -> None:
    cache = cache_of(tmp_path)
    barrier = multiprocessing.Barrier(2)

    def read() -> None:
        pairs = open_shards(server.url, "train", cache=cache)
        barrier.wait(60)
        assert equal(pairs, root)

    processes = [multiprocessing.get_context("fork").Process(target=read) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert set(server.shards_asked().values()) == {1} and len(server.shards_asked()) == len(kept(cache))


def test_pairs_go_to_spawned_workers_without_what_is_open(root, server, tmp_path) -> None:
    pairs = open_shards(server.url, "train", cache=cache_of(tmp_path))
    pairs[0]
    assert equal(pickle.loads(pickle.dumps(pairs)), root)
    for context in ("fork", "spawn"):
        loader = DataLoader(pairs, batch_size=None, num_workers=2, multiprocessing_context=context)  # type: ignore[arg-type]
        assert [caption for _, caption in loader] == [f"a dog {i}" for i in range(COUNT)]
    assert set(server.shards_asked().values()) == {1}


def test_in_memory_keeps_pairs_when_shards_are_gone(root, tmp_path) -> None:
    server = FileServer(root)
    pairs = open_pairs(server.url, "train", in_memory=True, cache=cache_of(tmp_path))
    assert equal(pairs, root)
    server.stop()
    for path in kept(cache_of(tmp_path)):
        path.unlink()
    pairs._opened.clear()
    assert equal(pairs, root)
