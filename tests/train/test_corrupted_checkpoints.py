"""However a checkpoint is corrupted, it is refused in one line or read as it was written, and no code in it is run.

``CORRUPTIONS=1000 pytest tests/train/test_corrupted_checkpoints.py`` draws more than the suite does.
"""

import contextlib
import io
import os
import random
import shutil
from collections import Counter

import pytest
import torch

from train.corruptions import EVERY, malicious_pickle
from train.stored_checkpoints import is_content, store_of
from volta_switch import UserError
from volta_switch.train import checkpoints
from volta_switch.weights import load_plain, read_weights

COUNT = int(os.environ.get("CORRUPTIONS", "150"))
STEPS = (1, 2, 3)


def campaign(folder, count, seed):
    """Corrupts a checkpoint ``count`` times, each time anew; how often each kind was refused and how often read.

    Asserts that it is refused by one line that offers the newest good one, or is read as it was written; that its
    weights alone are refused by one line or read; that an earlier one, not touched, is read; and that no code ran.
    """
    rng = random.Random(seed)
    mark = folder / "executed"
    source = store_of(folder / "source", *STEPS).folder
    outcomes = Counter()
    for place in range(count):
        corrupted = shutil.copytree(source, folder / "corrupted" / str(place))
        store = checkpoints.CheckpointStore(corrupted)
        first, second, third = (corrupted / f"step-{step:08d}" for step in STEPS)
        corrupt = EVERY[place % len(EVERY)]
        corrupt(rng, third, second, mark)
        what = f"{corrupt.__name__}, number {place} of seed {seed}"
        assert is_content(store.load(first), 1), what
        good = second if reads(store, second, 2, what) else first
        read = reads(store, third, 3, what, good)
        refused_or_read(lambda path=third / "model.safetensors": read_weights(path), what)
        assert not mark.exists(), what
        outcomes[f"{corrupt.__name__}: {'read' if read else 'refused'}"] += 1
        shutil.rmtree(corrupted)
    return outcomes


def reads(store, path, step, what, offered=None):
    """Whether a checkpoint is read, as it was written; else it must be refused by one line with what is offered."""
    try:
        saved = store.load(path)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1000, what
        assert offered is None or f"; {offered.name} is good: add --resume_file {offered}" in message, what
        return False
    assert is_content(saved, step), what
    return True


def refused_or_read(read, what):
    """Whether a file's reading, which has no checksum to go by, ends with a value; else it must be one line."""
    try:
        read()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, what
        return False
    return True


def test_a_corrupted_checkpoint_is_refused_in_one_line_or_read_as_it_was_written(tmp_path):
    outcomes = campaign(tmp_path, COUNT, seed=6)
    print(*sorted(outcomes.items()), sep="\n")
    assert outcomes.total() == COUNT
    assert {kind.split(":")[0] for kind in outcomes} == {corrupt.__name__ for corrupt in EVERY}  # all kinds were drawn
    read = {kind.split(":")[0] for kind in outcomes if kind.endswith("read")}
    assert {"linked", "further_file"} <= read  # which do no harm
    assert read <= {"linked", "further_file", "flipped_bits", "grown", "swapped", "changed_json", "nested"}


@pytest.mark.parametrize("check", ["_verify", "read_manifest"])
def test_the_campaign_notices_a_store_that_checks_nothing(tmp_path, monkeypatch, check):
    """Its assertions can fail."""
    if check == "_verify":
        monkeypatch.setattr(checkpoints, "_verify", lambda path, expected: None)
    else:
        monkeypatch.setattr("volta_switch.train.manifest.json_digest", lambda content: content.get("sha256"))
    with pytest.raises(AssertionError, match="of seed 6"):
        campaign(tmp_path, 1000, seed=6)


@pytest.mark.parametrize("suffix", [".bin", ".tar", ".pt", ".safetensors", ""])
def test_pickles_that_would_run_code_are_refused_wherever_a_file_is_given(tmp_path, suffix):
    rng, mark = random.Random(6), tmp_path / "executed"
    path = tmp_path / f"given{suffix}"
    store = store_of(tmp_path, 1)
    for place in range(max(COUNT // 10, 12)):
        path.write_bytes(malicious_pickle(rng, mark))
        for read in (lambda: read_weights(path), lambda: load_plain(path, "weights"), lambda: store.load(path)):
            assert not refused_or_read(read, str(place)) and not mark.exists()


def test_the_pickles_run_code_where_they_may(tmp_path):
    mark = tmp_path / "executed"
    for seed in range(12):
        with contextlib.suppress(Exception):  # that it is no state dict is found later
            torch.load(io.BytesIO(malicious_pickle(random.Random(seed), mark)), weights_only=False)
        mark.rmdir()  # fails unless it was made
