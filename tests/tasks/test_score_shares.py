"""All pairs shared out, to the processes of torchrun or to separate jobs: the scores are those of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from synthetic_world import refusal
from tasks.all_pairs import PARTS, RUN, check_finished, part_of, rewrite, scores_in
from volta_switch import UserError
from volta_switch.tasks import retrieval_scores
from volta_switch.train import evaluation
from volta_switch.train.flags import retrieval_flags

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("small_parts")


def test_shards_leave_the_results_to_a_run_without(evaluate, whole, tmp_path, scored, capsys):
    scored.clear()
    assert evaluate(tmp_path, "--shard", "2/3") is None
    assert "shard 2/3 is finished; 3 of all 4 parts are still missing: run the other shards" in capsys.readouterr().err
    assert evaluate(tmp_path, "--shard", "1/3") is None and evaluate(tmp_path, "--shard", "3/3") is None
    assert scored == [3, 0, 9, 6] and not (tmp_path / RUN / "test_metrics.json").exists()
    said = "shard 3/3 is finished, and so are all others; the same command without --shard writes the results"
    assert said in capsys.readouterr().err
    check_finished(tmp_path, evaluate(tmp_path), whole)
    assert len(scored) == PARTS


def test_more_shards_than_parts_have_nothing_to_do(evaluate, whole, tmp_path, scored):
    scored.clear()
    assert evaluate(tmp_path, "--shard", "7/7") is None and scored == []
    check_finished(tmp_path, evaluate(tmp_path), whole)


def test_a_shard_may_not_discard_the_others_parts(command, begun, capsys):
    message = refusal(evaluation.main_retrieval, command(begun, "--shard", "1/2", "--restart"), capsys)
    assert message.endswith(
        f"discard the other shards' scores, too; delete {begun / RUN / 'test_scores'} instead, once"
    )
    assert part_of(begun, 0).is_file()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/2/3", "a/b", "-1/2"])
def test_a_shard_is_one_of_its_count(command, tmp_path, capsys, shard):
    with pytest.raises(SystemExit):
        evaluation.main_retrieval(command(tmp_path, f"--shard={shard}"))
    assert f"expected K/N with K from 1 to N, found '{shard}'" in capsys.readouterr().err


def torchrun(count, argv, logs):
    """The command in several processes of torchrun: its exit code, and what each process wrote to standard error.

    Each has a file of its own: on one stream they would cut each other's lines.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", count, "--master_port", port]
    launch += ["--redirects", 3, "--log-dir", logs]  # 3: both streams
    line = [sys.executable, *map(str, launch), str(ROOT / "eval_retrieval.py"), *argv]
    done = subprocess.run(line, cwd="/", capture_output=True, text=True, timeout=300)
    return done.returncode, [file.read_text() for file in sorted(logs.rglob("stderr.log"))]


def test_two_processes_of_torchrun_equal_one(larger, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 16)  # as in the other processes
    result = evaluation.main_retrieval(larger(tmp_path / "one"))
    code, said = torchrun(2, larger(tmp_path / "two"), tmp_path / "said")
    assert code == 0 and len(said) == 2, said
    two = SimpleNamespace(result=result, scores=scores_in(tmp_path / "one"))
    check_finished(tmp_path / "two", result, two)
    assert [text.count("written to") for text in said] == [1, 0]


def test_another_number_of_processes_goes_on(larger, tmp_path, monkeypatch, scored):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 16)
    assert evaluation.main_retrieval(larger(tmp_path, "--shard", "2/7")) is None and scored == [16]
    part = part_of(tmp_path, 1)
    kept = np.load(part)
    kept[0, 0] = 77
    rewrite(part, kept)  # is taken as it is
    code, said = torchrun(2, larger(tmp_path), tmp_path / "said")
    assert code == 0, said
    scores = scores_in(tmp_path)
    assert scores.shape[1] == 32 and np.array_equal(scores[:, 16:], kept)


def started(number, argv):
    """One of two processes, as a cluster's own launcher would start it."""
    places = {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": argv[0]}
    line = [sys.executable, str(ROOT / "eval_retrieval.py"), *argv[1:]]
    return subprocess.Popen(line, cwd="/", env={**os.environ, **places}, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_other_one_soon(larger, tmp_path, failing):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    wrong = {failing: ["--from_pretrained", str(tmp_path / "none.bin")]}
    processes = [started(number, [port, *larger(tmp_path / "out"), *wrong.get(number, [])]) for number in (0, 1)]
    said = [process.communicate(timeout=120)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert said[failing][-1].startswith(f"error: {tmp_path / 'none.bin'}: no such weight file")
    assert "another one has ended, and its own lines say why" in said[1 - failing][-1]
    assert "Traceback" not in "\n".join(said[0] + said[1])


def test_torchrun_and_shards_are_one_or_the_other(command, tmp_path, monkeypatch, capsys):
    from volta_switch.train.ranks import Ranks

    args = retrieval_flags().parse_args(command(tmp_path, "--shard", "1/2"))
    with pytest.raises(UserError, match="--shard: torchrun divides the pairs among its processes"):
        evaluation.evaluate_pairs(args, Ranks(0, 2))


def test_other_tasks_stay_one_process(world, tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = [*world.flags("eval_task", tmp_path, "ctrl_uniter", "retrieval"), "--from_pretrained", weights]
    assert "start one process, without torchrun" in refusal(evaluation.main, argv, capsys)


def test_processes_that_cannot_meet_say_so(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = refusal(evaluation.main_retrieval, command(tmp_path), capsys)
    assert message.startswith("WORLD_SIZE is 2, but the processes cannot meet (") and "RANK" in message


def test_a_disk_that_is_not_shared_is_named(world, weights, evaluate, tmp_path, monkeypatch, capsys):
    pairs = world.task("retrieval", world.config("ctrl_uniter")).pairs("test")
    parts = retrieval_scores.ScoreParts(tmp_path / "scores", {}, pairs.pools)
    parts.open()
    with pytest.raises(
        UserError, match=r"part_\w+_00000\.npy: missing after all processes have finished; they must share"
    ):
        parts.matrix()
