"""Each of a study's jobs has a GPU of its own; on a machine without any the numbers are pretended."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from volta_switch import UserError
from volta_switch.study.run import VISIBLE, _begin_worker, chosen_gpus, run_study, slots


@pytest.fixture(autouse=True)
def nothing_visible(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.parametrize(
    ("flag", "names"),
    [("", "0123"), ("2", "01"), ("0", ""), ("3,", "3"), ("1,3", "13"), (" 3, 0 ", "30"), ("4", "0123")],
)
def test_the_flag_says_how_many_or_which(flag, names):
    assert chosen_gpus(flag, seen=4) == tuple(names)


def test_gpus_are_chosen_among_those_that_this_process_may_see(monkeypatch):
    monkeypatch.setenv(VISIBLE, "5, GPU-8d2f,7")
    assert chosen_gpus("", seen=3) == ("5", "GPU-8d2f", "7")
    assert chosen_gpus("2,1", seen=3) == ("7", "GPU-8d2f")
    assert chosen_gpus("", seen=0) == ()


@pytest.mark.parametrize(
    ("flag", "seen", "said"),
    [
        ("5", 4, "--gpus 5: this machine has 4, numbered from 0"),
        ("1,4", 4, "this machine has 4"),
        ("1", 0, "--gpus 1: PyTorch sees none"),
        ("1,1", 4, "one stands there twice"),
        ("all", 4, "expected how many (2), or their numbers with commas"),
        ("-1", 4, "expected how many"),
        ("0-3", 4, "expected how many"),
        (",", 4, "expected how many"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(flag, seen, said):
    with pytest.raises(UserError) as caught:
        chosen_gpus(flag, seen)
    assert said in str(caught.value)


def test_jobs_have_one_each_and_share_them_evenly_where_there_are_more_jobs():
    assert slots(2, ("0", "1", "2")) == ["0", "1"]
    assert slots(5, ("0", "1")) == ["0", "1", "0", "1", "0"]
    assert slots(2, ()) == ["", ""]


def seen_by_a_job(_):
    return os.getpid(), os.environ.get(VISIBLE)


def test_a_worker_keeps_its_gpu_for_as_long_as_it_lives():
    context = get_context("spawn")
    left = context.SimpleQueue()
    for gpu in slots(2, ("6", "3")):
        left.put(gpu)
    with ProcessPoolExecutor(2, context, initializer=_begin_worker, initargs=(1, left)) as pool:
        found = set(pool.map(seen_by_a_job, range(8)))
    assert len(found) == len({pid for pid, _ in found}) and {gpu for _, gpu in found} <= {"6", "3"}
    assert VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("jobs", "gpus", "said"),
    [
        (1, ("0", "1"), "; a GPU for each job (0)"),
        (3, ("1",), "; 3 jobs share 1 GPU (1)"),
        (2, (), "finished before\n"),
    ],
)
def test_a_study_says_who_shares_a_gpu(finished, capsys, jobs, gpus, said):
    study, folder = finished
    run_study(study, folder, jobs=jobs, gpus=gpus)
    assert said in capsys.readouterr().err
