"""A model by its address: pushed to a hub of the test's and pulled from it by the real client, in its own process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from volta_switch import UserError
from volta_switch.checksums import SUMS, record_bytes, record_json
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import BESIDE, TASK
from volta_switch.hub_models import SETTINGS, is_address, pinned, repository_name

ASK = """
import os, socket, time
if os.environ.get("SLOW_NAMES"):  # a resolver whose servers do not answer
    socket.getaddrinfo = lambda *given, **options: time.sleep(600)
from volta_switch import hub_models
from volta_switch.errors import UserError
for name, address in json.loads(sys.argv[1]):
    try:
        print(getattr(hub_models, name)(address))
    except UserError as error:
        print("error:", *str(error).splitlines(), sep=" ")
"""
PUSH = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/model", exist_ok=True)
api.upload_folder(repo_id="me/model", folder_path=sys.argv[1])
"""
MODEL = "hf://me/model"
FILES = {"config.json": b'{"tt_attn_sublayers": []}', "vocab.txt": b"[PAD]\n", "model.safetensors": b"weights" * 99}


def sums(files):
    """What volta_switch.sums says of files."""
    digests = [f'{hashlib.sha256(content).hexdigest()} "{name}"' for name, content in files.items()]
    lines = [f"{kind} {digest}" for digest in digests for kind in ("new", "set")]
    return "\n".join(["volta_switch checksums 1", *lines, ""]).encode()


@pytest.fixture
def ask(hub):
    """ask("weights_of", address, ...) -> the path or the error, of a process of its own."""

    def run(name, *addresses, **options):
        lines = hub.python(ASK, json.dumps([(name, address) for address in addresses]), **options).splitlines()
        assert len(lines) == len(addresses), lines
        return lines[0] if len(lines) == 1 else lines

    return run


def error(line):
    assert line.startswith("error: "), line
    return line.removeprefix("error: ")


def test_a_folder_is_pushed_and_pulled_bit_for_bit(hub, ask, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    record_json(folder / "config.json", {"tt_attn_sublayers": []})
    for name in ("vocab.txt", "task.yml", "model.safetensors", "README.md"):
        record_bytes(folder / name, f"{name}\n".encode() * 99)
    hub.python(PUSH, folder)
    pulled = Path(ask("whole_folder", MODEL))
    assert pulled.name == hub.commit_of("me/model")
    left_out = {"README.md"}  # for people
    assert {path.name for path in pulled.iterdir()} == {path.name for path in folder.iterdir()} - left_out
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in pulled.iterdir())


def test_a_revision_is_a_model_of_its_own(hub, ask):
    first = hub.create("me/model", FILES)
    hub.repositories["me/model"].refs["v1"] = first
    second = hub.create("me/model", {**FILES, "model.safetensors": b"others" * 99})
    found = ask("weights_of", MODEL, f"{MODEL}@v1", f"{MODEL}@{first}", f"{MODEL}@main")
    contents = [Path(path).read_bytes()[:6] for path in found]
    assert contents == [b"others", b"weight", b"weight", b"others"]
    assert [Path(path).parent.name for path in found] == [second, first, first, second]


def test_a_new_push_is_seen_and_nothing_is_fetched_twice(hub, ask):
    hub.create("me/model", FILES)
    before = ask("whole_folder", MODEL)
    assert ask("whole_folder", MODEL) == before
    fetched = {name: count for name, count in hub.asked.items() if "revision" not in name}
    assert fetched == {f"{kind} {name}": times for name in FILES for kind, times in (("HEAD", 2), ("GET", 1))}
    later = hub.create("me/model", {**FILES, "vocab.txt": b"[UNK]\n"})
    after = Path(ask("whole_folder", MODEL))
    assert after.name == later and (after / "vocab.txt").read_bytes() == b"[UNK]\n"
    assert hub.asked["GET model.safetensors"] == 1  # the same content is not fetched again


def test_a_commit_that_is_cached_is_not_asked_for(hub, ask):
    address = f"{MODEL}@{hub.create('me/model', FILES)}"
    found = ask("whole_folder", address)
    asked = dict(hub.asked)
    assert ask("whole_folder", address) == found and dict(hub.asked) == asked


def test_settings_come_without_weights(hub, ask):
    hub.create(
        "me/model", {**FILES, "README.md": b"# A model\n", "onnx/config.json": b"{}", "flax_model.msgpack": b"?"}
    )
    found = Path(ask("settings_folder", MODEL))
    assert {path.name for path in found.iterdir()} == {"config.json", "vocab.txt"}


def test_settings_are_the_files_of_a_models_folder():
    assert set(SETTINGS) == {CONFIG, TASK, *BESIDE, SUMS}


def test_of_a_repository_only_settings_of_their_usual_size_are_fetched(hub, ask):
    hub.create("me/model", {**FILES, "answers.json": b"{}", "labels.json": bytes((1 << 26) + 1)})
    said = error(ask("settings_folder", MODEL))
    assert "labels.json is refused: 67108865 bytes, expected 67,108,864 or fewer" in said
    assert not hub.asked["GET labels.json"] and not hub.asked["HEAD answers.json"]


def test_offline_nobody_is_asked_and_the_cache_is_taken(hub, ask):
    hub.create("me/model", FILES)
    found = ask("whole_folder", MODEL)
    asked = dict(hub.asked)
    assert ask("whole_folder", MODEL, offline=True) == found
    other, absent = ask("whole_folder", "hf://me/other", f"{MODEL}@v1", offline=True)
    for line in (error(other), error(absent)):
        assert "not in the hub's cache on this machine" in line and "OfflineModeIsEnabled" in line
    assert dict(hub.asked) == asked


def test_offline_what_is_cached_in_part_is_refused(hub, ask):
    hub.create("me/model", FILES)
    ask("settings_folder", MODEL)
    assert "model.safetensors is not in the cache on this machine" in error(ask("weights_of", MODEL, offline=True))


def test_what_the_librarys_own_program_fetched_is_taken_offline(hub, ask):
    hub.create("me/model", {**FILES, "volta_switch.sums": sums(FILES)})
    code = "from huggingface_hub import snapshot_download\nprint(snapshot_download('me/model'))"
    folder = hub.python(code).strip()
    assert ask("whole_folder", MODEL, offline=True) == folder
    blob = Path(folder, "vocab.txt").resolve()
    blob.write_bytes(b"[MASK]\n")
    assert "vocab.txt is not what the hub says" in error(ask("whole_folder", MODEL, offline=True))
    assert not blob.exists()


@pytest.mark.parametrize("fault", [503, "silent", "gone"])
def test_without_an_answer_the_cache_is_taken_and_a_line_says_so(hub, fault):
    commit = hub.create("me/model", FILES)
    wanted = json.dumps([("whole_folder", MODEL)])
    found = hub.python(ASK, wanted)
    hub.stop() if fault == "gone" else setattr(hub, "fault", fault)
    hub.create("me/model", {})
    again = hub.python(f"import contextlib\nwith contextlib.redirect_stderr(sys.stdout):\n exec({ASK!r})", wanted)
    said, path = again.splitlines()
    assert path == found.strip() and said.endswith(f"taken from the cache on this machine: commit {commit}")
    assert said.startswith(f"{MODEL}: the hub could not be asked (")


@pytest.mark.parametrize("fault", [429, "silent", "gone", "names"])
def test_without_an_answer_and_a_cache_one_line_comes_soon(hub, ask, fault):
    hub.stop() if fault == "gone" else setattr(hub, "fault", 0 if fault == "names" else fault)
    slow = {"HF_ENDPOINT": "http://hub.invalid", "SLOW_NAMES": "1"} if fault == "names" else {}
    found = error(ask("whole_folder", MODEL, **slow))
    assert found.startswith(f"{MODEL}: not in the hub's cache on this machine, and the hub could not be asked (")
    if fault in ("silent", "names"):
        assert "did not answer within 2 seconds" in found
    assert sum(hub.asked.values()) <= 1


def test_a_cut_download_is_resumed_where_it_was_cut(hub, ask):
    whole = hashlib.sha256(b"seed").digest() * 750_000  # 24 MB; the library keeps pieces of 10 MiB
    hub.create("me/model", {**FILES, "model.safetensors": whole})
    hub.cuts["model.safetensors"] = [22_000_000]
    assert Path(ask("weights_of", MODEL)).read_bytes() == whole
    assert hub.asked["GET model.safetensors"] == 2
    assert hub.sent["model.safetensors"] == 22_000_000 + len(whole) - 20 * 2**20


def test_what_cannot_be_fetched_to_its_end_leaves_nothing_that_is_taken_for_whole(hub, ask):
    hub.create("me/model", FILES)
    hub.cuts["model.safetensors"] = [9] * 20
    code = f"import time\ntime.sleep = lambda seconds: None\n{ASK}"
    found = hub.python(code, json.dumps([("weights_of", MODEL)]))
    assert "model.safetensors is not in the cache on this machine, and the hub could not deliver it" in error(found)
    hub.cuts.clear()
    assert Path(ask("weights_of", MODEL)).read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])  # a small one and a large one
def test_a_file_that_is_not_what_the_hub_says_is_refused_and_does_not_stay(hub, ask, file):
    hub.create("me/model", FILES)
    hub.wrong = {file}
    for _ in range(2):
        found = error(ask("whole_folder", MODEL))
        assert (
            f"{file} is not what the hub says it is (its checksum is another); it was removed from the cache" in found
        )
    assert hub.asked[f"GET {file}"] == 2
    cached = [path for path in hub.folder.glob("hf/hub/models--me--model/**/*") if path.is_file()]
    assert all(bytes(byte ^ 1 for byte in FILES[file]) != path.read_bytes() for path in cached)
    hub.wrong = set()
    assert Path(ask("whole_folder", MODEL), file).read_bytes() == FILES[file]


@pytest.mark.parametrize("file", ["vocab.txt", "model.safetensors"])
def test_a_file_that_is_not_what_was_written_is_refused_and_does_not_stay(hub, ask, file):
    hub.create("me/model", {**FILES, "volta_switch.sums": sums({**FILES, file: b"other"})})
    found = error(ask("whole_folder", MODEL))
    assert f"{file} is not what was written" in found and "volta_switch.sums" in found
    assert not list(hub.folder.glob(f"hf/hub/models--me--model/snapshots/*/{file}"))


def test_a_file_that_changes_in_the_cache_is_refused_and_fetched_anew(hub, ask):
    hub.create("me/model", FILES)
    path = Path(ask("weights_of", MODEL))
    path.resolve().write_bytes(b"damaged")
    assert "model.safetensors is not what the hub says it is" in error(ask("weights_of", MODEL, offline=True))
    assert Path(ask("weights_of", MODEL)).read_bytes() == FILES["model.safetensors"]


def test_refusals_say_what_to_do(hub, ask):
    hub.create("me/model", FILES)
    hub.create("me/gated", FILES)
    hub.create("me/private", FILES)
    hub.create("me/empty", {".gitattributes": b""})
    hub.create("me/parts", {"model-1-of-2.safetensors": b"", "model.safetensors.index.json": b"{}"})
    hub.refused = {"me/gated": "gated", "me/private": "private"}
    names = ["none", "private", "gated", "model@v9", "empty", "parts"]
    told = [
        "has no repository me/none, or keeps it private; check the name, or log in (hf auth login) or set HF_TOKEN",
        "has no repository me/private, or keeps it private",
        f"its owner gives access on request; ask for it at {hub.url}/me/gated, then log in",
        "the repository has no branch, tag or commit v9; check the revision",
        "holds neither model.safetensors nor pytorch_model_best.bin nor pytorch_model.bin; its files: .gitattributes",
        "has its weights in several files (model.safetensors.index.json)",
    ]
    for name, line, expected in zip(
        names, ask("weights_of", *(f"hf://me/{name}" for name in names)), told, strict=True
    ):
        assert error(line).startswith(f"hf://me/{name}") and expected in line


def test_a_repository_that_is_withdrawn_is_not_taken_from_the_cache(hub, ask):
    hub.create("me/model", FILES)
    ask("whole_folder", MODEL)
    hub.refused = {"me/model": "private"}
    assert "has no repository me/model, or keeps it private" in error(ask("whole_folder", MODEL))


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://me/", "hf://a/b/c", "hf://me/model@", "hf://me/model@../../x", "hf://me/../x", "hf://a b"],
)
def test_what_is_no_address_is_refused(address):
    assert is_address(address)
    with pytest.raises(UserError, match="expected hf://owner/name, or hf://owner/name@revision"):
        pinned(address)


def test_addresses_are_told_from_paths_and_names():
    assert not any(map(is_address, ("me/model", "hf:/me/model", Path("hf://me/model"), "", None, "bert-base-uncased")))
    assert repository_name("hf://me/model.v2@refs/pr/1") == "model.v2" and repository_name("hf://bert") == "bert"
    commit = f"hf://me/model@{'0' * 40}"
    assert pinned(commit) == commit
