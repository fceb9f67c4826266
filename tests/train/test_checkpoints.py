"""Which checkpoints are refused, with which words, and what is offered instead."""

import json
import os
import shutil

import pytest
import torch

from train.stored_checkpoints import IDENTITY, content, is_content, store_of
from volta_switch import UserError, __version__
from volta_switch.files import measured
from volta_switch.train.checkpoints import FORMAT, check_identity
from volta_switch.train.manifest import MANIFEST, Manifest, write_manifest


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path, 120, 140)


def refused(store, path):
    """The message, less the path, with which a checkpoint is refused."""
    with pytest.raises(UserError) as caught:
        store.load(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def offered(store, name="step-00000120"):
    return f"; {name} is good: add --resume_file {store.folder / name}"


NOTHING = "; no earlier checkpoint is good: leave out --resume and --resume_file to start anew"


def test_a_damaged_file_is_named_and_the_one_before_it_offered(store):
    path = store.newest() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert refused(store, store.newest()) == (
        "model.safetensors is damaged (its sha256 is not the manifest's)" + offered(store)
    )


def test_a_cut_file_is_told_by_its_size(store):
    path = store.newest() / "training.safetensors"
    size = path.stat().st_size
    os.truncate(path, 100)
    assert refused(store, store.newest()).startswith(
        f"training.safetensors is damaged (it has 100 bytes, {size} were written); "
    )


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "manifest.json"])
def test_a_missing_file_is_named(store, name):
    (store.newest() / name).unlink()
    assert refused(store, store.newest()) == f"{name} is missing" + offered(store)


def test_the_newest_good_one_is_offered_and_damaged_ones_are_passed_over(tmp_path):
    store = store_of(tmp_path, 1, 2, 3, 4)
    for step in (2, 3):
        os.truncate(store.folder / f"step-0000000{step}" / "training.safetensors", 0)
    assert refused(store, store.folder / "step-00000003").endswith(offered(store, "step-00000001"))  # not the later one
    os.truncate(store.folder / "step-00000001" / "manifest.json", 0)
    assert refused(store, store.folder / "step-00000003").endswith(NOTHING)


def test_what_is_offered_can_be_pasted(tmp_path):
    store = store_of(tmp_path / "a run's folder", 1)
    assert refused(store, store.folder / "none").endswith(
        "step-00000001 is good: add --resume_file '" + str(store.folder / "step-00000001").replace("'", "'\"'\"'") + "'"
    )


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("step-00000150", "no checkpoint to resume from"),
        ("step-00000140/model.safetensors", "is a file of a checkpoint; give its folder"),
        ("", "manifest.json is missing"),
        ("..", "manifest.json is missing"),
    ],
)
def test_a_path_beside_a_checkpoint_is_answered_with_the_newest(store, where, reason):
    assert refused(store, store.folder / where) == reason + offered(store, "step-00000140")


def test_training_states_of_volta_and_of_earlier_versions_are_refused(store, tmp_path):
    for state in ({"format": "volta_switch training state 1"}, {"model_state_dict": {}, "global_step": 3}):
        torch.save(state, tmp_path / "pytorch_ckpt_latest.tar")
        message = refused(store, tmp_path / "pytorch_ckpt_latest.tar")
        assert message.startswith("could not be read as a checkpoint (expected a folder such as checkpoints/step-")
        assert "only weights can be used: pytorch_model_*.bin, with --from_pretrained)" in message


def test_files_of_another_step_are_refused(store):
    old, new = (store.folder / f"step-00000{step}" for step in (120, 140))
    shutil.rmtree(new)
    shutil.copytree(old, new)
    assert refused(store, new) == "manifest.json is that of step 120" + offered(store)
    new.rename(store.folder / "my copy")
    assert is_content(store.load(store.folder / "my copy"), 120)  # a name without a step says nothing


def test_further_files_and_links_to_the_files_do_no_harm(store, tmp_path):
    path = store.newest()
    (path / "notes.txt").write_text("good one")
    for name in ("manifest.json", "model.safetensors"):
        shutil.move(path / name, tmp_path / name)
        (path / name).symlink_to(tmp_path / name)
    assert is_content(store.load(path), 140)
    (store.folder / "latest").symlink_to(path)
    assert is_content(store.load(store.folder / "latest"), 140)


def damaging(path, how):
    path.unlink(missing_ok=True)
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": lambda: path.mkdir(),
        "loop": lambda: path.symlink_to(path.name),
        "dangling": lambda: path.symlink_to("nothing"),
    }[how]()


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("pipe", "is not a file"),
        ("device", "is not a file"),
        ("folder", "is not a file"),
        ("loop", "cannot be read (Too many levels of symbolic links)"),
        ("dangling", "is missing"),
    ],
)
def test_what_is_no_file_is_not_opened(store, name, how, reason):
    damaging(store.newest() / name, how)
    assert refused(store, store.newest()) == f"{name} {reason}" + offered(store)


# --- Manifests ----------------------------------------------------------------------------------------------------


def rewritten(store, **changes):
    """The newest checkpoint with another manifest whose own checksum is right."""
    path = store.newest()
    progress, identity, plain, _, _ = content(140)
    files = {name: measured(path / name) for name in ("model.safetensors", "training.safetensors")}
    write_manifest(
        path, Manifest(**({"progress": progress, "identity": identity, "plain": plain, "files": files} | changes))
    )
    return path


def test_the_manifest_is_strict_json_that_says_what_it_is_of(store):
    def refuse(constant):
        raise AssertionError(constant)

    text = (rewritten(store, plain={"scale": float("inf")}) / MANIFEST).read_text(encoding="ascii")
    found = json.loads(text, parse_constant=refuse)
    assert found["format"] == FORMAT and found["version"] == __version__ and found["progress"]["step"] == 140
    assert found["plain"] == {"scale": {"not_finite": "inf"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b"[" * 100_000 + b"]" * 100_000, "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b'{"format": "x", "a": ' * 100_000, "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b'{"format": "x", "a": NaN}', "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b'{"format": "x", "a": 1e999}', "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b'{"format": "x", "a": ' + b"9" * 5000 + b"}", "manifest.json is damaged (it is not JSON"),
        (b'{"format": "\xff"}', "manifest.json is damaged (it is not JSON as this program writes it)"),
        (b"[]", "manifest.json is not the manifest of a checkpoint"),
        (b'{"name": "my-package", "version": "1"}', "manifest.json is not the manifest of a checkpoint"),
        (b'{"format": "x"}', "manifest.json is damaged (its sha256 is not its content's)"),
    ],
)
def test_other_json_is_refused(store, text, reason):
    (store.newest() / MANIFEST).write_bytes(text)
    message = refused(store, store.newest())
    assert message.startswith(reason) and message.endswith(offered(store))


def test_a_manifest_of_gigabytes_is_not_read(store):
    os.truncate(store.newest() / MANIFEST, 2**40)  # a file with a hole, which takes no room
    assert refused(store, store.newest()).startswith("manifest.json is larger than any manifest")


def test_another_version_s_format_is_named(store, monkeypatch):
    monkeypatch.setattr("volta_switch.train.manifest.FORMAT", "volta_switch checkpoint 3")
    path = rewritten(store)
    monkeypatch.undo()
    assert refused(store, path).startswith(
        "its format is 'volta_switch checkpoint 3', this version reads 'volta_switch checkpoint 2'"
    )


@pytest.mark.parametrize("changed", ["progress", "identity", "plain", "files", "format", "version", "sha256"])
def test_a_change_of_any_value_is_noticed(store, changed):
    path = store.newest() / MANIFEST
    found = json.loads(path.read_text())
    inner = found[changed]
    found[changed] = {**inner, "x": 1} if isinstance(inner, dict) else inner[:-1] + ("0" if inner[-1] != "0" else "1")
    path.write_text(json.dumps(found))
    assert refused(store, store.newest()).startswith("manifest.json is damaged (its sha256 is not its content's)")


def test_the_checksum_is_of_the_values_and_not_of_the_layout(store):
    path = store.newest() / MANIFEST
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert is_content(store.load(store.newest()), 140)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "manifest.json describes other files than"),
        ({"model.safetensors": {}, "../../x": {}}, "manifest.json describes other files than"),
        ({"model.safetensors": {}, "training.safetensors": {}}, "manifest.json does not say how large model.safe"),
        ({"model.safetensors": [1], "training.safetensors": 2}, "manifest.json does not say how large model.safe"),
    ],
)
def test_a_manifest_of_other_files_is_refused(store, files, reason):
    assert refused(store, rewritten(store, files=files)).startswith(reason)


# --- Settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hyperparameters": {**IDENTITY["hyperparameters"], "seed": 2}}, "hyperparameters.seed = 1, now it is 2"),
        ({"config": {"hidden_size": 24}}, "config.hidden_size = 16, now it is 24"),
        ({"config": {"hidden_size": 16, "switch": {"top_k": 2}}}, "config.switch = None, now it is {'top_k': 2}"),
        ({"task": "TASK8"}, "task = TASK1, now it is TASK8"),
        (
            {"hyperparameters": {"seed": 1, "adam_betas": (0.9, 0.98)}},
            r"adam_betas = \[0.9, 0.999\], now it is \[0.9, 0.98\]",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_the_setting_named(store, changed, named):
    saved = store.load(store.newest())
    with pytest.raises(UserError, match=rf"step-00000140: the run was started with .*{named}; use the same") as caught:
        check_identity(saved, {**IDENTITY, **changed})
    assert "\n" not in str(caught.value)


def test_the_same_settings_are_the_same_though_json_knows_no_tuples(store):
    saved = store.load(store.newest())
    check_identity(saved, {**IDENTITY, "hyperparameters": {"seed": 1, "adam_betas": (0.9, 0.999)}})
