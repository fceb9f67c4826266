"""Parts of a score matrix on disk: taken where they fit, refused or computed again where they do not."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from synthetic_world import refusal
from tasks.all_pairs import RUN, annotations_of_the_test_split, check_finished, part_of, rewrite, stop_in_part
from volta_switch import BertForVLPreTraining, UserError
from volta_switch.checksums import SUMS
from volta_switch.tasks import features_path, retrieval_scores
from volta_switch.tasks.retrieval_pools import PairBlock
from volta_switch.train import evaluation

pytestmark = pytest.mark.usefixtures("small_parts")


def of_another_shape(path):
    np.save(path, np.load(path)[:-1])


def of_doubles(path):
    np.save(path, np.load(path).astype(np.float64))


def without_a_number(path):
    scores = np.load(path)
    scores[3, 1] = np.nan
    np.save(path, scores)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-7])


def of_objects(path):
    path.write_bytes(b"")
    with path.open("wb") as file:
        np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)


class Trap:
    """Ends the process where it is unpickled."""

    def __reduce__(self):
        return os._exit, (9,)


CORRUPTED = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no array"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "archive": lambda path: np.savez(path.open("wb"), np.zeros(3)),
    "vast": lambda path: path.write_bytes(path.read_bytes().replace(b", 3), ", b", 9**9), "[:10])),
    "cut short": cut_short,
    "objects": of_objects,
    "shape": of_another_shape,
    "float64": of_doubles,
    "nan": without_a_number,
}


@pytest.mark.parametrize("how", CORRUPTED)
def test_a_corrupted_part_is_computed_again_and_named_once(evaluate, whole, tmp_path, monkeypatch, scored, capsys, how):
    with monkeypatch.context() as patch:
        stop_in_part(3, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path)
    path = part_of(tmp_path, 1)
    before = path.read_bytes()
    CORRUPTED[how](path)
    assert path.read_bytes() != before
    scored.clear()
    capsys.readouterr()
    check_finished(tmp_path, evaluate(tmp_path), whole)
    assert scored == [3, 9]
    named = [line for line in capsys.readouterr().err.splitlines() if str(path) in line]
    assert len(named) == 1 and named[0].endswith("; it is computed again")


@pytest.mark.parametrize("identity", [None, "", "[]", '{"volta_switch'])
def test_parts_of_unknown_origin_are_not_used(evaluate, whole, tmp_path, scored, capsys, identity):
    folder = tmp_path / RUN / "test_scores"
    folder.mkdir(parents=True)
    scores = np.zeros((len(whole.scores), 3), dtype=np.float32)
    np.save(folder / "part_00000.npy", scores)
    np.save((folder / ".part_00001.npy.killed").open("wb"), scores)
    if identity is not None:
        (folder / "identity.json").write_text(identity)
    scored.clear()
    check_finished(tmp_path, evaluate(tmp_path), whole)
    assert scored == [0, 3, 6, 9]
    said = f"{folder}: parts are computed again, 1 in all; no readable identity.json says what they are scores of"
    assert said in capsys.readouterr().err


def other_weights(world, tmp_path):
    model = world.task_model(world.task("retrieval", world.config("ctrl_uniter")), seed=1)
    torch.save(model.state_dict(), tmp_path / "other.bin")
    return ["--from_pretrained", tmp_path / "other.bin"]


def zero_shot(world, tmp_path):
    torch.save(BertForVLPreTraining(world.config("ctrl_uniter")).state_dict(), tmp_path / "pretrained.bin")
    return ["--from_pretrained", tmp_path / "pretrained.bin", "--zero_shot"]


def another_caption(world, tmp_path):
    lines = annotations_of_the_test_split(world).read_text().splitlines()
    first = json.loads(lines[0])
    first["sentences"][0] = first["sentences"][1]
    (tmp_path / "other.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    return ["--val_annotations_jsonpath", tmp_path / "other.jsonl"]


def fewer_images(world, tmp_path):
    (tmp_path / "fewer.jsonl").write_text("\n".join(annotations_of_the_test_split(world).read_text().splitlines()[:-1]))
    return ["--val_annotations_jsonpath", tmp_path / "fewer.jsonl"]


def rounded_features(world, tmp_path):
    from volta_switch.data_tools.repack import repack

    task = world.task("retrieval", world.config("ctrl_uniter"))
    repack([features_path(task.spec, "test")], tmp_path / "half", dtype="float16")
    return ["--val_features_lmdbpath", tmp_path / "half"]


def shorter_texts(world, tmp_path):
    other = world.copy(tmp_path / "world", max_seq_length=9)
    return ["--tasks_config_file", other.tasks_file]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda world, tmp_path: ["--precision", "bf16"], "precision (float32 there, bfloat16 now)"),
        (lambda world, tmp_path: ["--set", "layer_norm_eps=0.1"], "config.layer_norm_eps (1e-12 there, 0.1 now)"),
        (other_weights, "weights ("),
        (zero_shot, "zero_shot (False there, True now), weights ("),
        (another_caption, "captions.checksum ("),
        (fewer_images, "captions.count ("),
        (rounded_features, "images.checksum ("),
        (shorter_texts, "entry.max_seq_length (17 there, 9 now), captions.checksum ("),
    ],
)
def test_parts_of_another_computation_are_refused(world, command, begun, tmp_path, capsys, change, named):
    before = {path: path.read_bytes() for path in (begun / RUN / "test_scores").iterdir()}
    message = refusal(evaluation.main_retrieval, command(begun, *change(world, tmp_path)), capsys)
    start = f"{begun / RUN / 'test_scores'}: holds scores of another computation, which differs in {named}"
    assert message.startswith(start), message
    assert message.endswith("; discard them with --restart, or give another --save_name")
    assert {path: path.read_bytes() for path in (begun / RUN / "test_scores").iterdir()} == before


def test_another_version_or_size_of_parts_is_refused(command, begun, capsys, monkeypatch):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 4)
    assert "differs in part_images (3 there, 4 now);" in refusal(evaluation.main_retrieval, command(begun), capsys)
    monkeypatch.setattr(evaluation, "__version__", "99")
    assert "differs in volta_switch (" in refusal(evaluation.main_retrieval, command(begun), capsys)


def test_where_the_files_lie_is_no_part_of_the_identity(world, weights, evaluate, begun, whole, tmp_path, scored):
    shutil.copy(weights, tmp_path / "moved.bin")
    other = world.copy(tmp_path / "world")
    scored.clear()
    flags = ("--tasks_config_file", other.tasks_file, "--from_pretrained", tmp_path / "moved.bin")
    check_finished(begun, evaluate(begun, *flags), whole)
    assert scored == [6, 9]


def test_restart_discards_what_is_there(evaluate, begun, whole, scored):
    scored.clear()
    rewrite(part_of(begun, 0), np.zeros_like(whole.scores[:, :3]))  # would be taken
    check_finished(begun, evaluate(begun, "--restart"), whole)
    assert scored == [0, 3, 6, 9]


def test_files_of_others_in_the_folder_are_left_alone(evaluate, begun, whole):
    theirs = begun / RUN / "test_scores" / "notes.txt"
    theirs.write_text("mine")
    assert evaluate(begun) == whole.result
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]


def test_scores_are_kept_on_request_only(world, evaluate, command, whole, tmp_path):
    captions = world.task("retrieval", world.config("ctrl_uniter")).pairs("test").caption_image
    assert whole.scores.shape == (len(captions), 10) and whole.scores.dtype == np.float32
    plain = [flag for flag in command(tmp_path / "plain") if flag != "--keep_scores"]
    assert evaluation.main_retrieval(plain) == whole.result
    files = {path.name for path in (tmp_path / "plain" / RUN).iterdir()}
    assert files == {"test_metrics.json", "test_ranks.json", "test_result.json", SUMS}


def test_a_full_disk_is_named_and_keeps_what_is_finished(command, tmp_path, monkeypatch, capsys):
    plain = retrieval_scores.replacing

    def full(path):
        if path.name.endswith("_00001.npy"):
            raise OSError(28, "No space left on device")
        return plain(path)

    monkeypatch.setattr(retrieval_scores, "replacing", full)
    with pytest.raises(UserError) as caught:
        evaluation.main_retrieval(command(tmp_path))
    said = "No space left on device; finished parts are kept, and the same command goes on"
    first = part_of(tmp_path, 0)
    assert str(caught.value) == f"{first.with_name(first.name.replace('_00000', '_00001'))}: {said}"
    assert len(list(first.parent.glob("part_*"))) == 1


def test_every_flipped_byte_of_a_part_is_found(evaluate, begun, whole, scored, capsys):
    part = part_of(begun, 0)
    content = part.read_bytes()
    for place in (0, 9, len(content) // 2, len(content) - 33, len(content) - 1):  # also of the header and the checksum
        part.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        known = json.loads((part.parent / "identity.json").read_text())
        parts = retrieval_scores.ScoreParts(part.parent, known, [PairBlock(range(1), range(1))])
        parts._mark = part.name.split("_")[1]
        assert parts._read(0) is None and "its checksum is not its content's" in capsys.readouterr().err


def test_restart_is_refused_while_another_process_writes_there(world, command, begun, tmp_path, capsys, whole):
    other = [*command(begun, *other_weights(world, tmp_path)), "--restart"]
    before = {path: path.read_bytes() for path in (begun / RUN / "test_scores").iterdir()}
    with (begun / RUN / "test_scores" / retrieval_scores.LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as the process that scores has it
        message = refusal(evaluation.main_retrieval, other, capsys)
    assert "--restart would discard scores that another process is writing; wait for it, or" in message
    assert {path: path.read_bytes() for path in (begun / RUN / "test_scores").iterdir()} == before
    assert evaluation.main_retrieval(other) != whole.result  # nobody is there any more


def test_a_matrix_never_holds_columns_of_two_models_even_without_locks(tmp_path, monkeypatch):
    """One process discards and begins anew while another, of other weights, is half through."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 2)
    split = [PairBlock(range(3), range(4))]
    first, second = (retrieval_scores.ScoreParts(tmp_path / "scores", {"weights": name}, split) for name in "ab")
    first.open()
    first._write(0, np.full((3, 2), 1.0, np.float32))
    second.open(restart=True)
    first._write(1, np.full((3, 2), 1.0, np.float32))
    for number in (0, 1):
        second._write(number, np.full((3, 2), 2.0, np.float32))
    assert (second.matrix() == 2).all()
    with pytest.raises(UserError, match=r"00000\.npy: missing after all processes have finished"):
        first.matrix()
