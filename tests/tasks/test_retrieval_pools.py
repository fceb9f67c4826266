"""Retrieval in pools: ranks within them, only pairs within them are scored, and no mix-up with the whole split."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from synthetic_world import json_of, refusal
from tasks.all_pairs import RUN, annotations_of_the_test_split, scores_in, stop_in_part
from volta_switch import UserError
from volta_switch.command import run_command
from volta_switch.study.items import Evaluated, ItemReader
from volta_switch.tasks import load_task, retrieval
from volta_switch.tasks.metrics import rank_metrics, ranks_in_pools, retrieval_ranks
from volta_switch.tasks.retrieval_pools import pairs_in, parts_of, pools_of
from volta_switch.train import evaluation

pytestmark = pytest.mark.usefixtures("small_parts")
POOL = 5  # images; the test split has ten, so that there are two pools, each of a part of three and one of two


def ranks_by_hand(scores, caption_image, size):
    """Both directions by their definitions, from the scores (captions, images) of the whole split, pair by pair."""
    ir, tr = [], []
    for caption, image in enumerate(caption_image.tolist()):
        pool = [other for other in range(scores.shape[1]) if other // size == image // size]
        ir.append(sum(scores[caption, other] >= scores[caption, image] for other in pool if other != image))
    for image in range(scores.shape[1]):
        own = [scores[caption, image] for caption, of in enumerate(caption_image.tolist()) if of == image]
        rivals = [
            scores[caption, image]
            for caption, of in enumerate(caption_image.tolist())
            if of // size == image // size and of != image
        ]
        tr.append(sum(rival >= max(own) for rival in rivals))
    return {"ir": np.array(ir), "tr": np.array(tr)}


def columns_of_pools(scores, caption_image, size):
    """The scores of each caption with its own pool's images, (captions, size)."""
    return np.stack(
        [row[image // size * size :][:size] for row, image in zip(scores, caption_image.tolist(), strict=True)]
    )


@pytest.fixture(scope="module")
def caption_image(world):
    return world.task("retrieval", world.config("ctrl_uniter")).pairs("test").caption_image


@pytest.fixture
def pooled(evaluate, tmp_path):
    """An evaluation in pools: its result, its folder's parent and its scores."""
    result = evaluate(tmp_path / "pooled", "--pool_images", POOL)
    return SimpleNamespace(result=result, out=tmp_path / "pooled", scores=scores_in(tmp_path / "pooled"))


@pytest.fixture
def tasks_file(world):
    """The world's task file with other settings of an entry: tasks_file(path, key, settings)."""

    def write(path, key="TASK8", **settings):
        entries = yaml.safe_load(world.tasks_file.read_text())
        entries[key] |= settings
        path.write_text(yaml.safe_dump(entries))
        return ["--tasks_config_file", str(path), "--data_root", str(world.path)]

    return write


# --- Ranks and blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [2, 3, 6, 12])
def test_ranks_are_those_of_each_pool_alone(size, ties):
    rng = np.random.default_rng(size)
    caption_image = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    scores = rng.random((len(caption_image), 12), dtype=np.float32)
    scores = scores.round(1) if ties else scores
    found = ranks_in_pools(columns_of_pools(scores, caption_image, size), caption_image)
    expected = ranks_by_hand(scores, caption_image, size)
    assert all(np.array_equal(found[direction], expected[direction]) for direction in ("ir", "tr"))
    if size == 12:  # one pool is the whole split
        whole = retrieval_ranks(scores, caption_image)
        assert all(np.array_equal(found[direction], whole[direction]) for direction in ("ir", "tr"))


def test_voltas_ties_are_taken_within_a_pool():
    caption_image, scores = np.arange(6).repeat(2), np.zeros((12, 6), dtype=np.float32)
    found = ranks_in_pools(scores[:, :3], caption_image, volta_ties=True)
    alone = retrieval_ranks(scores[:6, :3], caption_image[:6], volta_ties=True)
    for direction in ("ir", "tr"):
        assert np.array_equal(found[direction], np.tile(alone[direction], 2))


def test_a_thousand_images_in_tens_of_pools_are_a_tenth_of_the_pairs():
    caption_image = np.repeat(np.arange(1000), 5)
    whole, pools = (pools_of(caption_image, 1000, size, "file") for size in (None, 100))
    assert [pairs_in(each) for each in (whole, pools)] == [5_000_000, 500_000]
    assert [(each.images, each.captions) for each in pools[1:3]] == [
        (range(100, 200), range(500, 1000)),
        (range(200, 300), range(1000, 1500)),
    ]
    for each in (whole, pools):
        parts = parts_of(each, 16)
        assert pairs_in(parts) == pairs_in(each) and {len(part.images) for part in parts[:-1]} <= {16, 4}
        assert [image for part in parts for image in part.images] == list(range(1000))


@pytest.mark.parametrize(("images", "size"), [(10, 4), (10, 20), (10, 1), (10, 0)])
def test_pools_that_do_not_fill_the_split_are_refused(images, size):
    with pytest.raises(UserError, match=rf"^file: {images} images are no whole number of pools of {size}; ") as raised:
        pools_of(np.arange(images), images, size, "file")
    assert "\n" not in str(raised.value)


# --- The command ------------------------------------------------------------------------------------------------------


def test_an_evaluation_in_pools_is_the_whole_one_looked_at_pool_by_pool(pooled, whole, caption_image):
    assert pooled.scores.shape == (len(caption_image), POOL)
    expected = columns_of_pools(whole.scores, caption_image, POOL)
    np.testing.assert_allclose(pooled.scores, expected, rtol=1e-5, atol=1e-5)
    ranks = ranks_by_hand(whole.scores, caption_image, POOL)
    assert pooled.result.metrics == rank_metrics(ranks) != whole.result.metrics
    folder = pooled.out / RUN
    assert json_of(folder / "test_ranks.json") == {name: found.tolist() for name, found in ranks.items()}
    for image, best in zip(caption_image.tolist(), json_of(folder / "test_result.json"), strict=True):
        first = image // POOL * POOL
        assert sorted(best) == list(range(first, first + POOL))  # of the split, not of the pool
    said = json_of(folder / "test_metrics.json")
    assert said["of"]["pool_images"] == POOL and said["pools"] == "2 of 5 images each, ranked within each"


def test_no_pair_of_two_pools_is_scored(evaluate, tmp_path, monkeypatch, capsys, caption_image):
    from volta_switch.tasks import retrieval_scores

    scored, plain = [], retrieval_scores.score_pairs

    def counted(model, texts, images, task):
        found = plain(model, texts, images, task)
        scored.append(found.numel())
        return found

    monkeypatch.setattr(retrieval_scores, "score_pairs", counted)
    evaluate(tmp_path, "--pool_images", POOL)
    assert sum(scored) == len(caption_image) * POOL
    assert f"of {len(caption_image) * POOL:,} scored" in capsys.readouterr().err


def test_one_pool_of_all_images_gives_the_whole_splits_numbers(evaluate, whole, tmp_path):
    result = evaluate(tmp_path, "--pool_images", 10)
    assert np.array_equal(scores_in(tmp_path), whole.scores)
    assert result.metrics == whole.result.metrics and result.results == whole.result.results


def test_an_interrupted_evaluation_goes_on_in_the_pool_that_it_was_in(evaluate, pooled, tmp_path, monkeypatch, scored):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_in_part(3, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(out, "--pool_images", POOL)
    scored.clear()
    assert evaluate(out, "--pool_images", POOL) == pooled.result
    assert scored == [8] and np.array_equal(scores_in(out), pooled.scores)  # the last part: images 8 and 9
    assert not (out / RUN / "test_scores").exists()


def test_shards_share_the_parts_of_all_pools(evaluate, pooled, tmp_path, scored):
    out = tmp_path / "out"
    scored.clear()
    for shard in ("2/3", "1/3", "3/3"):
        assert evaluate(out, "--pool_images", POOL, "--shard", shard) is None
    assert scored == [3, 0, 8, 5]
    assert evaluate(out, "--pool_images", POOL) == pooled.result and np.array_equal(scores_in(out), pooled.scores)


def test_the_task_files_entry_says_the_same_as_the_flag(evaluate, pooled, tasks_file, tmp_path, world, weights):
    entry = tasks_file(tmp_path / "tasks.yml", pool_images=POOL)
    assert evaluate(tmp_path / "entry", *entry) == pooled.result
    found = json_of(tmp_path / "entry" / RUN / "test_metrics.json")
    assert found["of"] == json_of(pooled.out / RUN / "test_metrics.json")["of"]
    flag = evaluate(tmp_path / "flag", *entry, "--pool_images", 2)  # overrides it
    assert flag.notes == {"pools": "5 of 2 images each, ranked within each"}
    argv = [*world.flags("eval_task", tmp_path / "plain", "ctrl_uniter", "retrieval"), *entry, "--split", "test"]
    plain = evaluation.main([*argv, "--from_pretrained", str(weights), "--batch_size", "16"])
    assert plain.metrics == pooled.result.metrics


def test_scores_and_results_of_pools_and_of_the_whole_split_are_told_apart(command, evaluate, tmp_path, capsys):
    evaluate(tmp_path / "a", "--pool_images", POOL)
    for flags, here in ([], None), (["--pool_images", 2], 2):
        said = refusal(evaluation.main_retrieval, command(tmp_path / "a", *flags), capsys)
        assert f"another evaluation, which differs in pool_images ({POOL} there, {here} now)" in said
    assert evaluate(tmp_path / "b", "--shard", "1/2") is None
    said = refusal(evaluation.main_retrieval, command(tmp_path / "b", "--pool_images", POOL), capsys)
    assert f"scores of another computation, which differs in pool_images (None there, {POOL} now)" in said


def test_an_evaluation_without_pools_says_nothing_of_them(evaluate, tmp_path):
    evaluate(tmp_path)
    said = json_of(tmp_path / RUN / "test_metrics.json")
    assert "pools" not in said and "pool_images" not in json.dumps(said)


def test_within_pools_there_are_no_numbers_of_cocos_folds(world, caption_image, monkeypatch):
    monkeypatch.setattr(retrieval, "FOLD", 2)
    task = world.task("retrieval", world.config("ctrl_uniter"))
    scores = np.random.default_rng(0).random((len(caption_image), 10), dtype=np.float32)
    assert "ir_r1_1k" in task.ranked(scores, caption_image).metrics
    task.spec = retrieval.TaskSpec(**{**vars(task.spec), "pool_images": 10})
    assert "ir_r1_1k" not in task.ranked(scores, caption_image).metrics


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 3, 20])
def test_a_number_that_does_not_divide_the_images_is_refused_before_weights_are_read(
    world, command, tmp_path, capsys, size
):
    argv = [*command(tmp_path / "out", "--pool_images", size), "--from_pretrained", tmp_path / "none.bin"]
    said = refusal(evaluation.main_retrieval, argv, capsys)
    path = annotations_of_the_test_split(world)
    assert said.startswith(f"{path}: 10 images are no whole number of pools of {size}; give a number of 2 or more")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["1", "0", "-5", "many"])
def test_the_flag_takes_two_images_or_more(command, tmp_path, capsys, size):
    with pytest.raises(SystemExit) as caught:
        run_command(evaluation.main_retrieval, command(tmp_path, f"--pool_images={size}"))
    said = capsys.readouterr().err
    assert caught.value.code == 2 and "--pool_images: expected a whole number from 2" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "size", "told"),
    [
        ("TASK8", 1, "TASK8: pool_images: expected a whole number from 2"),
        ("TASK10", 5, "TASK10: pool_images: not read for a V-logit, found 5; leave it out"),
        ("TASK1", 5, "TASK1: pool_images: not read for a VL-classifier, found 5; leave it out"),
    ],
)
def test_an_entry_that_cannot_have_pools_is_refused(tasks_file, tmp_path, key, size, told):
    tasks_file(tmp_path / "tasks.yml", key, pool_images=size)
    with pytest.raises(UserError) as raised:
        load_task(tmp_path / "tasks.yml", key)
    assert str(raised.value).startswith(f"{tmp_path / 'tasks.yml'}: {told}") and "\n" not in str(raised.value)


# --- Items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["ir_r1", "tr_r1"])
@pytest.mark.parametrize("older", [False, True])
def test_items_are_captions_and_images_whose_mean_is_the_score(pooled, tasks_file, tmp_path, world, metric, older):
    tasks_file(tmp_path / "tasks.yml", pool_images=POOL)
    spec = load_task(tmp_path / "tasks.yml", "TASK8", world.path)
    if older and metric == "ir_r1":  # results without ranks tell image retrieval, too
        (pooled.out / RUN / "test_ranks.json").unlink()
        (pooled.out / RUN / "volta_switch.sums").unlink()
    test, score = Evaluated(spec, "test", pooled.out / RUN), pooled.result.metrics[metric]
    items = ItemReader().items(test, metric, score)
    assert float(items.points.mean()) == pytest.approx(score, abs=1e-4)
    assert len(set(items.groups)) == 10 and len(items.ids) == {"ir_r1": 50, "tr_r1": 10}[metric]
    assert test.data != Evaluated(load_task(world.tasks_file, "TASK8"), "test", pooled.out / RUN).data
